"""How are the parts of a configuration put together for training?"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from refine.builders.distillation import build_distillation
from refine.builders.pruner import kept_layers
from refine.builders.recovery import build_learning_rate, build_rewind
from refine.builders.refinement import build_refinement
from refine.builders.regularizer import build_regularizer
from refine.builders.schedule import build_schedule, check_schedule
from refine.builders.start import begin_
from refine.builders.step import build_stepper
from refine.config.schema import RunConfig
from refine.datasets.course import Course
from refine.datasets.images import Loader
from refine.datasets.prepare import Data
from refine.records.rows import EpisodeRow
from refine.rng import stream
from refine.training.device import Precision
from refine.training.position import Position
from refine.training.trainer import Trainer


def build_trainer(
    config: RunConfig,
    model: nn.Module,
    course: Course,
    precision: Precision,
    cache_directory: Path,
    check: Callable[[], None] = lambda: None,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
    on_phase: Callable[[int, str, int, int], None] = lambda cycle, step, done, of: None,
    *,
    fresh: bool = True,
) -> Trainer:
    """The training that ``config`` describes. ``check`` is called after every step of a replay,
    ``on_step`` after every step of an epoch, ``on_episode`` after every trial of a controller,
    ``on_phase`` in every step of a cycle; ``fresh`` is False if the network is restored from a
    checkpoint."""
    position = Position()
    protected = kept_layers(config.pruner, model)
    stepper = build_stepper(
        config.trainer,
        model,
        precision,
        build_distillation(config.distillation, model, course),
        build_regularizer(config.regularizer, model, course.example, protected),
    )
    refinement = build_refinement(
        config, stepper, course, position, cache_directory, check, on_episode
    )
    schedule = build_schedule(config, refinement, course)
    rewind = build_rewind(config.recovery, refinement, schedule, course)
    if rewind is not None:
        refinement.followers["rewind"] = rewind
    prunable = refinement.method.prunable
    learning_rate = build_learning_rate(config, stepper.optimizer, schedule, course, prunable)
    if fresh:
        begin_(config, refinement, course)
        check_schedule(config, schedule, refinement, course)

    def scoring(task: Data, cycle: int) -> Loader:
        seed = stream(config.seed, "scoring", cycle)
        return task.sample(config.pruner.scoring_batches, course.batch_size, seed)

    return Trainer(
        model,
        course,
        stepper,
        learning_rate,
        refinement,
        schedule,
        torch.Generator().manual_seed(config.seed),
        scoring,
        rewind=rewind,
        recovery_epochs=config.recovery.epochs,
        tolerance=getattr(schedule, "tolerance", None),
        at=position,
        on_step=on_step,
        on_phase=on_phase,
    )
