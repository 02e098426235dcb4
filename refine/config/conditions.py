"""Which conditions can a rule check, and how is a rule made?"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from refine.config.instantiate import imported
from refine.config.schedules import chosen, name_of
from refine.setting import TARGETS


class Rule(NamedTuple):
    """One rule of the table. ``says`` is the message, formatted with the configuration as ``c`` and
    with the result of ``wrong`` as ``it``."""

    setting: str
    wrong: Callable[[DictConfig], Any]
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


def only_of_channels(name: str, unset: Any) -> Rule:
    """A setting of channels, which single weights do not have."""
    return Rule(
        f"pruner.{name}",  # control=dense cuts nothing
        lambda c: not structured(c) and c.pruner[name] != unset and c.pruner.importance != "none",
        "applies to channels only; set pruner=structured",
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
