"""Which recipe and schedule does a configuration stand for?"""

import logging
from math import floor

from omegaconf import DictConfig, OmegaConf
from torch import nn

from refine.builders.channels import check_goal, goal_of
from refine.config.instantiate import build
from refine.datasets.course import Course
from refine.distillation import Distillation
from refine.errors import SettingError
from refine.refinement import RuntimeRefinement
from refine.regularization import Regularizer
from refine.schedule import Geometric, Never, Toward
from refine.sparsity.optimizers import needs_closure
from refine.training.device import Precision
from refine.training.learning_rate import Schedule
from refine.training.step import Stepper

log = logging.getLogger("refine")


def build_stepper(
    config: DictConfig,
    model: nn.Module,
    precision: Precision,
    distillation: Distillation,
    regularizer: Regularizer | None,
) -> Stepper:
    """The training step with its optimizer."""
    trainer = config.trainer
    chosen = {"foreach", "differentiable"} & set(trainer.optimizer)  # which rule fused steps out
    offered = {} if chosen else {"fused": True}
    parameters = list(model.parameters())
    optimizer = build("trainer.optimizer", trainer.optimizer, parameters, offered=offered)
    if needs_closure(optimizer):
        raise SettingError(
            "trainer.optimizer", f"{trainer.optimizer._target_} needs a closure; choose another"
        )
    return Stepper(model, optimizer, precision, trainer.label_smoothing, distillation, regularizer)


def build_schedule(config: DictConfig, refinement: RuntimeRefinement, course: Course) -> Schedule:
    """The schedule of a run."""
    by_channel = refinement.channels is not None
    goal = goal_of(config.pruner, refinement.prunable) if by_channel else None
    node = config.schedule
    if goal is not None:  # how much each cycle cuts is the target's part of the way
        node = OmegaConf.merge(node, {"of": "survivors", "cycles_at_once": 1})
    given = {
        "ratio": config.pruner.ratio,
        "length": _length(config, course),
        "prunable": refinement.prunable,
        "total": refinement.prunable if by_channel else refinement.total_parameters,
    }
    schedule = build("schedule", node, offered=given)
    return schedule if goal is None else Toward(schedule, goal)


def _length(config: DictConfig, course: Course) -> int:
    """Of the run, in what the schedule counts."""
    by_step = config.schedule.by == "step"
    return course.total_steps(config.trainer.batch_size) if by_step else course.epochs


def check_schedule(
    config: DictConfig, schedule: Schedule, refinement: RuntimeRefinement, course: Course
) -> None:
    """Walks through the cycles from the network as it is: SettingError for what would fail in the
    middle of the run."""
    epochs, surviving, cycles = config.trainer.epochs, refinement.surviving, 0
    for at in range(_length(config, course) + 1):
        ratio = schedule.due(at, surviving)
        if ratio is None:
            continue
        cycles += 1
        if ratio < 0 and not refinement.regrowth.active:
            raise SettingError(
                "schedule",
                f"lets weights grow back after {config.schedule.by} {at}; set regrowth=random, "
                "or a sparsity that does not fall",
            )
        if at == 0 and ratio > 0 and hasattr(refinement.importance, "observe"):
            raise SettingError(
                "pruner.importance",
                "movement needs training before the first cycle; set schedule.start above 0",
            )
        if ratio < 0:
            surviving += round(-ratio * surviving)
        elif not refinement.regrowth.active or schedule.grows:
            surviving -= floor(ratio * (surviving - 1)) + 1
    if not cycles and isinstance(schedule, Toward):
        there = refinement.surviving <= schedule.goal
        problem = "has no cycle in which the pruner's target can be reached"
        raise SettingError(
            "start_from" if there else "schedule",
            "this network is at the pruner's target already" if there else problem,
        )
    check_goal(config, refinement, surviving)
    if not cycles and not isinstance(schedule, Never):
        log.warning("no cycle is due in %d epochs; see schedule.interval", epochs)
    if isinstance(schedule, Geometric) and not refinement.regrowth.active:
        rest = schedule.to(schedule.target(), surviving)
        if rest is not None and rest > 0:
            raise SettingError(
                "schedule.target_sparsity",
                f"{schedule.target_sparsity:g} is not reached by {cycles} cycles of "
                f"{schedule.ratio:g}; set pruner.ratio, schedule.interval or trainer.epochs",
            )
