"""Which schedule does a configuration describe, and does it fit this network?"""

import logging
from math import floor

from refine.channels.cut import ChannelCut
from refine.config.instantiate import build, imported
from refine.config.schedules import settings_of
from refine.config.schema import PrunerConfig, RunConfig
from refine.datasets.course import Course
from refine.errors import FieldError, SettingError
from refine.refinement import RuntimeRefinement
from refine.schedule import Schedule, ToTarget
from refine.setting import TARGETS

log = logging.getLogger("refine")


def build_schedule(config: RunConfig, refinement: RuntimeRefinement, course: Course) -> Schedule:
    """The schedule of a run."""
    method, node = refinement.method, dict(config.schedule)
    maker = imported("schedule._target_", node["_target_"])
    by_channel = isinstance(method, ChannelCut)
    goal = _goal_of(config.pruner, method.prunable) if by_channel else None
    if goal is not None:  # then the target decides how much each cycle cuts
        whole = {"of": "survivors", "cycles_at_once": 1}
        node |= {name: value for name, value in whole.items() if name in settings_of(maker)}
    default = getattr(
        maker, "by", "epoch"
    )  # of a class; a property where it is not always the same
    by = node.get("by", default if isinstance(default, str) else "epoch")
    given = {
        "ratio": config.pruner.ratio,
        "length": _length(course, by),
        "prunable": method.prunable,
        "total": method.prunable if by_channel else refinement.total_parameters,
    }
    schedule: Schedule = build("schedule", node, offered=given)
    return schedule if goal is None else ToTarget(schedule, goal, _length(course, by))


def unit_of(config: RunConfig) -> str:
    """The unit of the schedule's ratios where channels are cut."""
    pruner, schedule = config.pruner, config.schedule
    if pruner.target_speedup is not None or pruner.target_macs is not None:
        return "macs"
    maker = imported("schedule._target_", schedule["_target_"])
    to_sparsity = getattr(maker, "to_sparsity", False) or schedule.get("target_sparsity")
    return "parameters" if pruner.target_parameters is not None or to_sparsity else "channels"


def _length(course: Course, by: str) -> int:
    """Epochs or steps of the run."""
    return course.total_steps if by == "step" else course.epochs


def _goal_of(node: PrunerConfig, full: int) -> int | None:
    """What the pruner's target leaves of the initial number ``full``, if it has a target."""
    if node.target_speedup is not None:
        if node.target_speedup > full:
            problem = f"must be at most {full:,}, the number of MACs at the start"
            raise SettingError("pruner.target_speedup", problem)
        return int(full / node.target_speedup)
    goal = node.target_macs or node.target_parameters
    if goal is not None and goal >= full:
        problem = f"must be below {full:,}, the number at the start"
        raise SettingError(f"pruner.{_target(node)}", problem)
    return goal


def _target(node: PrunerConfig) -> str | None:
    return next((name for name in TARGETS if getattr(node, name) is not None), None)


def check_schedule(
    config: RunConfig, schedule: Schedule, refinement: RuntimeRefinement, course: Course
) -> None:
    """Goes through all cycles, without cutting: SettingError for what would fail in the middle of
    the run."""
    method, regrows = refinement.method, refinement.parts.regrowth.active
    surviving, cycles = method.surviving, 0
    for at in range(_length(course, schedule.by) + 1):
        ratio = schedule.due(at, surviving)
        if ratio is None:
            continue
        cycles += 1
        _check_cycle(schedule, refinement, at, ratio)
        if ratio < 0:
            surviving += round(-ratio * surviving)
        elif not regrows or schedule.grows:
            surviving -= floor(ratio * (surviving - 1)) + 1
    if not cycles and isinstance(schedule, ToTarget):
        there = method.surviving <= schedule.goal
        problem = "has no cycle in which the pruner's target can be reached"
        raise SettingError(
            "start_from" if there else "schedule",
            "this network is at the pruner's target already" if there else problem,
        )
    if isinstance(method, ChannelCut):
        _check_goal(config.pruner, method, surviving)
    if not cycles and getattr(schedule, "expects_cycles", True):
        epochs = config.trainer.epochs
        remedy = f"schedule.interval={max(1, epochs // 2)} makes one due"
        if not hasattr(schedule, "interval") or epochs < 2:
            remedy = "see schedule.start, or give more trainer.epochs"
        log.warning("no cycle is due in %d epochs, so nothing is cut; %s", epochs, remedy)
    check_end = getattr(schedule, "check_end", None)  # a user's own may lack it
    if check_end and not regrows:
        try:
            check_end(surviving, cycles)
        except FieldError as error:
            raise SettingError(f"schedule.{error.field}", error.problem) from error


def _check_cycle(schedule: Schedule, refinement: RuntimeRefinement, at: int, ratio: float) -> None:
    """SettingError for a cycle after ``at`` that this refinement cannot do."""
    if ratio < 0 and not refinement.parts.regrowth.active:
        raise SettingError(
            "schedule",
            f"lets weights grow back after {schedule.by} {at}; set regrowth=random, or a sparsity "
            "that does not fall",
        )
    if at == 0 and ratio > 0 and refinement.importance.needs_steps:
        raise SettingError(
            "pruner.importance",
            "movement needs training before the first cycle; set schedule.start above 0",
        )


def _check_goal(node: PrunerConfig, channels: ChannelCut, goal: int) -> None:
    """SettingError if no cut can leave as little as ``goal``, where the schedule ends."""
    if channels.settings.unit == "channels" or goal >= channels.surviving:
        return
    furthest = channels.furthest()
    if furthest > goal:
        target = _target(node)
        setting = "schedule" if target is None else f"pruner.{target}"
        raise SettingError(setting, f"cannot be reached: {channels.missed(furthest, goal)}")
