"""Which settings does the chosen schedule have, and is it given others?

They are the parameters of its class that the run does not supply, of a user's own class too.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING as REQUIRED
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from inspect import Parameter
from typing import Any, cast, get_type_hints

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf

from refine.config.home import config_directory
from refine.config.instantiate import imported
from refine.errors import SettingError, one_of
from refine.renamed import current
from refine.schedule import Given

TARGET = "_target_"
SUPPLIED = frozenset(entry.name for entry in fields(Given))
# Overrides that choose another schedule than the one that an experiment's file has settings for.
CHOOSES = frozenset(("schedule", "control", f"schedule.{TARGET}"))
# Version 0.1.0 saved all of these settings with every schedule. These values are ignored where
# a schedule lacks the setting.
HELD_BY_ALL: Mapping[str, tuple[Any, ...]] = {
    "interval": (5, 1), "start": (None,), "stop": (None,), "by": ("epoch",), "of": ("survivors",),
    "cycles_at_once": (1,), "initial_sparsity": (0.0,), "target_sparsity": (None,), "at": ([],),
    "sparsities": ([],), "period": (5,), "tolerance": (0.01,),
}  # fmt: skip

Maker = Callable[..., Any]  # a schedule's class, or a function that makes one


def settle(
    config: DictConfig, given: Collection[str] = (), idle: dict[str, SettingError] | None = None
) -> None:
    """Gives ``config.schedule`` every setting that its schedule has, and no other, in place.

    given: the names of the settings on the command line. One that the schedule lacks is a
    SettingError, on the command line and in a file. There are two exceptions: if the command line
    has chosen the schedule, settings that a file has for another one are left out, and so are
    the values that older files hold for every schedule.

    idle: gets the errors of given settings that other schedules have, in place of raising them.
    """
    schedule, node = chosen(config), written(config)
    for key in [key for key in node if not takes(schedule, key)]:
        for_another = not CHOOSES.isdisjoint(given) and bool(having(key))
        left_out = for_another or node[key] in HELD_BY_ALL.get(key, ())
        if f"schedule.{key}" in given or not left_out:
            if idle is None or not having(key) or f"schedule.{key}" not in given:
                raise lacks(config, key)
            idle[f"schedule.{key}"] = lacks(config, key)
        del node[key]
    defaults = OmegaConf.create({"schedule": OmegaConf.structured(_schema(schedule))})
    OmegaConf.set_struct(defaults.schedule, False)  # _target_, and what goes into **settings
    values = written(OmegaConf.merge(defaults, {"schedule": node}))
    optional = [name for name, entry in _parameters(schedule).items() if not _required(entry)]
    config.schedule = {TARGET: node[TARGET]} | {
        key: value for key, value in values.items() if value != MISSING or key not in optional
    }


def chosen(config: DictConfig) -> Maker:
    """The class of the configuration's schedule; SettingError if there is none."""
    target = written(config).get(TARGET, MISSING)
    if target == MISSING:
        problem = "is not set (a class like those of refine/schedule/)"
        raise SettingError(f"schedule.{TARGET}", problem)
    return imported(f"schedule.{TARGET}", target)


def written(config: Any) -> dict[str, Any]:
    """The ``schedule`` node as it is written, interpolations too."""
    node = config.get("schedule")
    return cast(dict[str, Any], OmegaConf.to_container(node)) if node else {}


@cache
def options() -> dict[str, dict[str, Any]]:
    """The nodes of the files in ``conf/schedule/``, by the name of the option."""
    found = sorted((config_directory() / "schedule").glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in found}


def whole(option: str) -> dict[str, Any]:
    """All settings of a file in ``conf/schedule/`` with their values."""
    config = OmegaConf.create({"schedule": options()[option]})
    settle(config)
    return written(config)


def name_of(config: DictConfig) -> str:
    """The name of the configuration's schedule: its option, else its import path."""
    target = current(config.schedule[TARGET])
    return next((name for name, node in options().items() if node[TARGET] == target), target)


def having(key: str) -> list[str]:
    """The options whose schedule has the setting ``key``."""
    targets = {name: imported("schedule", node[TARGET]) for name, node in options().items()}
    return [name for name, schedule in targets.items() if key in settings_of(schedule)]


def lacks(config: DictConfig, key: str) -> SettingError:
    """The error for a setting that the configuration's schedule does not have."""
    own, others, name = list(settings_of(chosen(config))), having(key), name_of(config)
    known = f"it has {', '.join(own) or 'none'}" if others or not own else one_of(own, key)
    also = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} {key}" if others else ""
    label = name if "." in name else f"schedule={name}"
    return SettingError(f"schedule.{key}", f"{label} has no such setting; {known}{also}")


def takes(schedule: Maker, key: str) -> bool:
    """Whether a ``schedule`` node may hold ``key``."""
    try:
        kinds = {entry.kind for entry in inspect.signature(schedule).parameters.values()}
    except ValueError:  # some callables written in C do not tell
        return True
    return key == TARGET or key in settings_of(schedule) or Parameter.VAR_KEYWORD in kinds


def settings_of(schedule: Maker) -> dict[str, Field[Any]]:
    """The settings of a schedule by name, each a dataclass's field."""
    return {entry.name: entry for entry in fields(_schema(schedule))}


@cache
def _schema(schedule: Maker) -> type:
    """A dataclass of only its settings, with types that OmegaConf knows."""
    own = {entry.name: entry for entry in fields(schedule)} if is_dataclass(schedule) else {}
    try:
        hints = get_type_hints(schedule if own else getattr(schedule, "__init__", schedule))
    except Exception:  # a user's own hints may name what does not exist
        hints = {}
    columns = [
        _column(name, hints.get(name, Any), entry, own.get(name))
        for name, entry in _parameters(schedule).items()
    ]
    return make_dataclass("ScheduleSettings", columns)


def _column(
    name: str, hint: Any, parameter: Parameter, entry: Field[Any] | None
) -> tuple[str, Any, Any]:
    """The name, type and field of a setting. The type is Any, and the default left out, where
    OmegaConf does not support them."""
    meaning = dict(entry.metadata) if entry else {}

    def default() -> Any:
        if entry and entry.default_factory is not REQUIRED:
            return entry.default_factory()
        return MISSING if _required(parameter) else parameter.default

    for type_, value in ((hint, default), (Any, default)):
        column = (name, type_, field(default_factory=value, metadata=meaning))
        try:
            OmegaConf.structured(make_dataclass("Probe", [column]))
        except Exception:  # it refuses types and values in many ways
            continue
        return column
    return name, Any, field(default_factory=lambda: MISSING, metadata=meaning)


def _parameters(schedule: Maker) -> dict[str, Parameter]:
    """The parameters in its signature that are settings."""
    try:
        parameters = inspect.signature(schedule).parameters
    except ValueError:
        return {}
    anything = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return {
        name: entry
        for name, entry in parameters.items()
        if name not in SUPPLIED and entry.kind not in anything
    }


def _required(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty
