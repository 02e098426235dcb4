"""Which channels does a configuration take out, and what holds them small before?"""

from fnmatch import fnmatchcase

from omegaconf import DictConfig
from torch import Tensor, nn

import refine.regularization.penalties as kinds
from refine.channels.groups import torch_pruning
from refine.channels.plan import Structured
from refine.config.fingerprint import TARGETS
from refine.config.instantiate import function
from refine.config.schedules import chosen
from refine.datasets.course import Course
from refine.errors import SettingError
from refine.refinement import RuntimeRefinement
from refine.regularization import Regularizer


def example_of(course: Course) -> Tensor:
    """Two images as the network is given them."""
    task = course.tasks[0]
    return next(iter(task.plain(task.train[:2])))[0]


def build_structured(config: DictConfig) -> Structured | None:
    """How the ``pruner`` chooses channels, if it does."""
    pruner = config.pruner
    if pruner.criterion == "none":
        return None
    try:
        torch_pruning()
    except ValueError as error:
        raise SettingError("pruner", str(error)) from None
    return Structured(
        criterion=function("pruner.criterion", pruner.criterion, "refine.channels.criteria"),
        scope=pruner.allocation,
        unit=_unit(config),
        protected=tuple(pruner.layers or {}),
        round_to=pruner.round_to,
        min_channels=pruner.min_channels,
        min_density=pruner.min_layer_density,
        steps=pruner.steps,
    )


def _unit(config: DictConfig) -> str:
    """What a schedule's ratios are shares of."""
    pruner, schedule = config.pruner, config.schedule
    if pruner.target_speedup is not None or pruner.target_macs is not None:
        return "macs"
    to_sparsity = getattr(chosen(config), "to_sparsity", False)
    by_sparsity = to_sparsity or schedule.get("target_sparsity") is not None
    return "parameters" if pruner.target_parameters is not None or by_sparsity else "channels"


def goal_of(pruner: DictConfig, full: int) -> int | None:
    """What the pruner's target leaves of the ``full`` number at first, if it has one."""
    if pruner.target_speedup is not None:
        return int(full / pruner.target_speedup)
    goal = pruner.target_macs or pruner.target_parameters
    if goal is not None and goal >= full:
        name = next(name for name in TARGETS if pruner[name] is not None)
        raise SettingError(f"pruner.{name}", f"must be below {full:,}, what there is at first")
    return goal


def check_goal(config: DictConfig, refinement: RuntimeRefinement, goal: int) -> None:
    """SettingError if no cut can leave as little as ``goal``, which the schedule comes to."""
    channels = refinement.channels
    if channels is None or channels.settings.unit == "channels" or goal >= channels.surviving:
        return
    furthest = channels.furthest()
    if furthest > goal:
        named = (f"pruner.{name}" for name in TARGETS if config.pruner[name] is not None)
        setting = next(named, "schedule")
        raise SettingError(setting, f"cannot be reached: {channels.missed(furthest, goal)}")


def _kept(pruner: DictConfig, model: nn.Module) -> list[str]:
    """The layers that ``pruner.layers`` says are never cut."""
    globs = [glob for glob, share in (pruner.layers or {}).items() if not share]
    names = [name for name, _ in model.named_modules() if name]
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def build_regularizer(config: DictConfig, model: nn.Module, course: Course) -> Regularizer | None:
    """What ``regularizer`` adds to the gradients, if anything."""
    node = config.regularizer
    if node.kind == "none":
        return None
    try:
        regularizer = Regularizer(
            function("regularizer.kind", node.kind, kinds.__name__),
            example_of(course),
            strength=node.strength,
            growth=node.growth,
            warmup=node.warmup,
            start=node.start,
            stop=node.stop,
            protected=_kept(config.pruner, model),
        )
        regularizer.prepare(model)
    except ValueError as error:
        raise SettingError("regularizer", str(error)) from None
    return regularizer
