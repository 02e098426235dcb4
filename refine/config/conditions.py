"""Which conditions can a rule check, and how is a rule made?"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from refine.config.instantiate import imported
from refine.config.schedules import chosen, name_of
from refine.renamed import current
from refine.setting import TARGETS

# What makes scores on training images: importances and criteria, regrowths, their allocations.
SCORED_ON_DATA = {
    "taylor", "taylor_squared", "fisher", "snip", "activation", "gradient", "saliency", "greedy",
    "proportional", "controller",
}  # fmt: skip
CURVES_WITH = {  # settings of the rate, and our curves that read them
    "max_lr": ("slr", "clr", "one_cycle", "fine_tune"),
    "min_lr": ("slr", "fine_tune"),
}
TRACKERS_WITH = {"project": ("mlflow", "wandb"), "uri": ("mlflow",), "mode": ("wandb",)}


class Rule(NamedTuple):
    """One rule of the table. ``says`` is the message, formatted with the configuration as ``c`` and
    with the result of ``wrong`` as ``it``."""

    setting: str
    wrong: Callable[[DictConfig], Any]
    says: str


class Effect(NamedTuple):
    """One entry. ``says`` is formatted with the configuration as ``c`` and with what ``idle`` gives
    as ``it``; ``idle`` is true where the settings have no effect."""

    names: tuple[str, ...]
    idle: Callable[[DictConfig], Any]
    says: str


def needs(config: DictConfig, what: str) -> str | None:
    """The name of the schedule, if its class has ``needs_WHAT`` set, such as ``needs_regrowth``."""
    return name_of(config) if getattr(chosen(config), f"needs_{what}", False) else None


def granularity_of(config: DictConfig) -> str | None:
    """The only granularity that the importance has scores for; None if it has them for all."""
    importance: str = config.pruner.importance
    if "." in importance:  # a user's own; importing one of ours would import torch
        found: str | None = getattr(imported("pruner.importance", importance), "granularity", None)
        return found
    return "filter" if importance == "similarity" else None


def badly_shared(config: DictConfig) -> Any:
    """``pruner.layers``, if it does not map globs to shares."""
    layers = config.pruner.layers or {}
    shares = layers.values() if isinstance(layers, Mapping) else ["no shares"]
    right = all(isinstance(share, int | float) and 0 <= share < 1 for share in shares)
    return None if right else layers


def after_the_end(name: str) -> Callable[[DictConfig], int | None]:
    """A condition that gives the schedule's setting ``name`` if it is after the end of the run."""

    def wrong(config: DictConfig) -> int | None:
        epoch = config.schedule.get(name)
        late = isinstance(epoch, int) and epoch > config.trainer.epochs
        return epoch if late and config.schedule.get("by", "epoch") == "epoch" else None

    return wrong


def grown(config: DictConfig) -> bool:
    """Whether cycles let weights grow back."""
    return bool(config.regrowth.score != "none")


def structured(config: DictConfig) -> bool:
    """Whether whole channels are taken out."""
    return bool(config.pruner.criterion != "none")


def targets(config: DictConfig) -> list[str]:
    """The targets that are set for a pruner of channels."""
    return [name for name in TARGETS if config.pruner[name] is not None]


def unset_target(name: str) -> Rule:
    """The free node ``name`` must say what it stands for."""
    return Rule(
        f"{name}._target_",
        lambda c: not OmegaConf.select(c, f"{name}._target_"),
        "is not set; give the import path of a callable",
    )


def cuts_nothing(config: DictConfig) -> bool:
    """Whether neither weights nor channels are scored."""
    return bool(config.pruner.importance == "none" and not structured(config))


def no_cycles(config: DictConfig) -> str | None:
    """The name of the schedule, if it has no cycles."""
    return None if getattr(chosen(config), "expects_cycles", True) else name_of(config)


def of_ratio(config: DictConfig) -> str | None:
    """What decides how much a cycle cuts in place of pruner.ratio; None if that does."""
    if cuts_nothing(config):
        return "pruner.importance=none"
    if config.pruner.granularity == "n_m":
        return "pruner.granularity=n_m"
    if not getattr(chosen(config), "cuts_ratio", True):
        return f"schedule={name_of(config)}"
    return share_decided(config)


def share_decided(config: DictConfig) -> str | None:
    """The target that decides how much a cycle cuts, whatever the share; None without one."""
    if structured(config) and (names := targets(config)):
        return f"pruner.{names[0]}"
    target = config.schedule.get("target_sparsity") is not None
    return "schedule.target_sparsity" if target and name_of(config) == "one_shot" else None


def scored_without_data(config: DictConfig) -> bool:
    """Whether all scores are made of the weights alone, and nothing but scores reads images."""
    importance = config.pruner.criterion if structured(config) else config.pruner.importance
    readers = [importance, *([config.regrowth.score, config.regrowth.allocation] * grown(config))]
    return not any(name in SCORED_ON_DATA or "." in name for name in readers)


def of_curve(setting: str, curves: tuple[str, ...]) -> Effect:
    """A setting of the rate that only some of our curves read; one's own may read any."""
    listed = ", ".join(f"recovery={curve}" for curve in curves)
    return Effect(
        (f"recovery.{setting}",),
        lambda c: "." not in c.recovery.curve and c.recovery.curve not in curves,
        f"has no effect with recovery={{c.recovery.curve}}; choose {listed}, or leave it out",
    )


def of_tracker(setting: str, trackers: tuple[str, ...]) -> Effect:
    """A setting that only some of our trackers read; one's own may read any."""

    def idle(config: DictConfig) -> str | None:
        module, _, _ = current(config.tracker._target_).rpartition(".")
        name = module.removeprefix("refine.tracking.")
        return name if name != module and name not in trackers else None

    listed = " or ".join(f"tracker={tracker}" for tracker in trackers)
    return Effect(
        (f"tracker.{setting}",),
        idle,
        f"has no effect with tracker={{it}}; choose {listed}, or leave it out",
    )


def only_of_weights(name: str, wanted: Any, reason: str) -> Rule:
    """A setting of single weights, which channels do not have."""
    return Rule(
        name.removesuffix(".kind"),
        lambda c: structured(c) and OmegaConf.select(c, name) != wanted,
        f"must be {wanted} with pruner=structured: {reason}",
    )


def of_target(name: str) -> tuple[Rule, Rule]:
    """What a target of channels requires of the schedule."""
    return (
        Rule(
            f"pruner.{name}",
            lambda c: (
                structured(c)
                and targets(c) == [name]
                and not getattr(chosen(c), "splits_target", False)
                and name_of(c)
            ),
            "needs schedule=one_shot or periodic, not {it}",
        ),
        Rule(
            "schedule.target_sparsity",
            lambda c: (
                structured(c)
                and targets(c) == [name]
                and c.schedule.get("target_sparsity") is not None
            ),
            f"and pruner.{name} exclude each other",
        ),
    )


def exclusive(first: str, second: str) -> Rule:
    """Of two targets of channels, at most one is set."""
    return Rule(
        f"pruner.{second}",
        lambda c: structured(c) and None not in (c.pruner[first], c.pruner[second]),
        f"and pruner.{first} exclude each other",
    )
