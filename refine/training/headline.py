"""What is said of a run as it begins?"""

from refine.config import RunConfig
from refine.datasets.course import Course
from refine.report.remaining import Ahead
from refine.training.device import Machine
from refine.training.trainer import Trainer


def headline(settings: RunConfig, course: Course, machine: Machine) -> str:
    """Network, data, machine and seed, in a line."""
    parts = {"training": "train", "validation": "validation", "test": "test"}
    counts = {
        name: sum(len(getattr(task, part)) for task in course.tasks)
        for name, part in parts.items()
        if getattr(course.tasks[0], part)
    }
    images = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    stream = f" in {len(course.tasks)} tasks" if len(course.tasks) > 1 else ""
    model = settings.model["_target_"].rpartition(".")[2]
    dataset = settings.dataset._target_.rpartition(".")[2]
    return (
        f"{model} on {dataset} ({images} images{stream}), {machine.name}, "
        f"{machine.precision.name}, seed {settings.seed}"
    )


def ahead(trainer: Trainer) -> Ahead:
    """What the run has before it."""
    steps = getattr(trainer.refinement.parts.replay, "steps", 0)
    return Ahead(trainer.course.epochs, trainer.at.epoch, trainer.cycles_ahead(), steps)
