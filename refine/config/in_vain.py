"""Which settings are given in vain?

Only what a person gives is refused: on the command line or in a file of their own. What a preset or
a saved configuration holds for another choice does no harm.
"""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from refine.config.effects import EFFECTS
from refine.config.schedules import chosen, settings_of
from refine.config.schema import GROUPS, settings
from refine.errors import SettingError
from refine.setting import within


def without_effect(config: DictConfig, given: Iterable[str]) -> dict[str, SettingError]:
    """Those of the ``given`` settings that have no effect in ``config``, each with its error. The
    choice of a group, such as ``recovery``, is not one of them."""
    found: dict[str, SettingError] = {}
    known = [name for name, _ in settings()] + [f"schedule.{key}" for key in config.schedule]
    for name in given:
        if name in GROUPS or not any(within(each, (name,)) for each in known):
            continue
        for effect in EFFECTS:
            if within(name, effect.names) and (it := effect.idle(config)):
                found[name] = SettingError(name, effect.says.format(c=config, it=it))
                break
    return found


def reset_(config: DictConfig, names: Iterable[str]) -> None:
    """Gives the settings ``names``, which have no effect, their defaults."""
    own = {f"schedule.{key}": entry for key, entry in settings_of(chosen(config)).items()}
    for name, entry in {**dict(settings()), **own}.items():
        if within(name, names):
            field: Any = entry  # a schedule's has a factory
            default = field.default_factory() if name in own else field.default
            OmegaConf.update(config, name, default)


def left_open(config: DictConfig) -> list[str]:
    """Settings without effect that a preset has left for others to fill in."""
    nodes = ((name, *name.rpartition(".")[::2]) for name, _ in settings() if "." in name)
    unset = [
        name for name, group, key in nodes
        if OmegaConf.is_missing(OmegaConf.select(config, group), key)
    ]  # fmt: skip
    return list(without_effect(config, unset))
