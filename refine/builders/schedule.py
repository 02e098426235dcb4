"""Which schedule does a configuration stand for, and can this network follow it?"""

import logging
from math import floor

from omegaconf import DictConfig

from refine.builders.channels import check_goal, goal_of
from refine.config.instantiate import build
from refine.config.schedules import chosen, settings_of
from refine.datasets.course import Course
from refine.errors import FieldError, SettingError
from refine.refinement import RuntimeRefinement
from refine.schedule import Schedule, ToTarget

log = logging.getLogger("refine")


def build_schedule(config: DictConfig, refinement: RuntimeRefinement, course: Course) -> Schedule:
    """The schedule of a run."""
    by_channel = refinement.channels is not None
    goal = goal_of(config.pruner, refinement.prunable) if by_channel else None
    node, length = dict(config.schedule), _length(config, course, _unit_of_time(config))
    if goal is not None:  # how much each cycle cuts is the target's part of the way
        own = settings_of(chosen(config))
        node |= {
            name: value
            for name, value in {"of": "survivors", "cycles_at_once": 1}.items()
            if name in own
        }
    given = {
        "ratio": config.pruner.ratio,
        "length": length,
        "prunable": refinement.prunable,
        "total": refinement.prunable if by_channel else refinement.total_parameters,
    }
    schedule: Schedule = build("schedule", node, offered=given)
    return schedule if goal is None else ToTarget(schedule, goal, length)


def _unit_of_time(config: DictConfig) -> str:
    """What the schedule counts: "epoch" or "step"."""
    of_class = getattr(chosen(config), "by", "epoch")  # a property where it is not the same always
    by: str = config.schedule.get("by", of_class if isinstance(of_class, str) else "epoch")
    return by


def _length(config: DictConfig, course: Course, by: str) -> int:
    """Epochs or steps of the run."""
    return course.total_steps(config.trainer.batch_size) if by == "step" else course.epochs


def check_schedule(
    config: DictConfig, schedule: Schedule, refinement: RuntimeRefinement, course: Course
) -> None:
    """Walks through the cycles from the network as it is: SettingError for what would fail in the
    middle of the run."""
    surviving, cycles = refinement.surviving, 0
    for at in range(_length(config, course, schedule.by) + 1):
        ratio = schedule.due(at, surviving)
        if ratio is None:
            continue
        cycles += 1
        _check_cycle(schedule, refinement, at, ratio)
        if ratio < 0:
            surviving += round(-ratio * surviving)
        elif not refinement.regrowth.active or schedule.grows:
            surviving -= floor(ratio * (surviving - 1)) + 1
    if not cycles and isinstance(schedule, ToTarget):
        there = refinement.surviving <= schedule.goal
        problem = "has no cycle in which the pruner's target can be reached"
        raise SettingError(
            "start_from" if there else "schedule",
            "this network is at the pruner's target already" if there else problem,
        )
    check_goal(config, refinement, surviving)
    if not cycles and getattr(schedule, "expects_cycles", True):
        log.warning("no cycle is due in %d epochs; see schedule.interval", config.trainer.epochs)
    check_end = getattr(schedule, "check_end", None)
    if check_end and not refinement.regrowth.active:
        try:
            check_end(surviving, cycles)
        except FieldError as error:
            raise SettingError(f"schedule.{error.field}", error.problem) from error


def _check_cycle(schedule: Schedule, refinement: RuntimeRefinement, at: int, ratio: float) -> None:
    """SettingError for a cycle after ``at`` that this refinement cannot make."""
    if ratio < 0 and not refinement.regrowth.active:
        raise SettingError(
            "schedule",
            f"lets weights grow back after {schedule.by} {at}; set regrowth=random, or a sparsity "
            "that does not fall",
        )
    if at == 0 and ratio > 0 and _needs_steps(refinement):
        raise SettingError(
            "pruner.importance",
            "movement needs training before the first cycle; set schedule.start above 0",
        )


def _needs_steps(refinement: RuntimeRefinement) -> bool:
    """Whether the importance scores by what training steps have done."""
    importance = refinement.importance
    return bool(getattr(importance, "needs_steps", hasattr(importance, "observe")))
