"""What is wrong with the values of a configuration?"""

import re
from collections.abc import Iterator
from dataclasses import Field, fields
from math import inf, isfinite
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from refine.config.rules import broken
from refine.config.schedules import chosen, lacks, settings_of, takes
from refine.config.schema import CLOSED, settings
from refine.errors import SettingError, one_of
from refine.setting import BOUNDS, allowed, number_meant


def validate(config: DictConfig) -> None:
    """Raises SettingError for the first value that is out of its range, or does not go with others.

    Types and unknown keys were checked when the configuration was composed.
    """
    for name, entry in (*settings(), *_of_schedule(config)):
        _check(config, name, entry)
    if error := broken(config):
        raise error
    for schema, name in CLOSED.items():
        known = [entry.name for entry in fields(schema)]
        for key in map(str, OmegaConf.select(config, name) if name else config):
            if key not in known:
                where = f"{name}.{key}" if name else key
                raise SettingError(where, f"there is no such setting; {one_of(known, key)}")


def _of_schedule(config: DictConfig) -> Iterator[tuple[str, Field[Any]]]:
    """The settings of the chosen schedule; SettingError for one that it does not have."""
    schedule, keys = chosen(config), [str(key) for key in config.schedule]
    for key in keys:
        if not takes(schedule, key):
            raise lacks(config, key)
    for key, entry in settings_of(schedule).items():
        if key in keys:  # also if its value is missing
            yield f"schedule.{key}", entry


def _check(config: DictConfig, name: str, entry: Field[Any]) -> None:
    """SettingError for a value that is missing or out of its range."""
    group, _, key = name.rpartition(".")
    if OmegaConf.is_missing(OmegaConf.select(config, group) if group else config, key):
        meaning = entry.metadata.get("meaning")
        raise SettingError(name, f"is not set{f' ({meaning})' if meaning else ''}")
    try:
        value = OmegaConf.select(config, name)
    except InterpolationResolutionError as error:
        raise SettingError(name, unresolved(error)) from None
    if value is None or not entry.metadata:
        return
    if entry.metadata.get("text") and not value.strip():
        raise SettingError(name, "is empty; give it a value, or leave it out")
    if isinstance(value, str) and not value.isascii():
        _check_encoding(name, value)
    for each in value if isinstance(value, ListConfig) else (value,):
        _check_value(name, each, entry)


def _check_encoding(name: str, value: str) -> None:
    """SettingError for text that no file of the run could hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingError(name, f"{value!a:.80} is no UTF-8 text; rename what it names") from None


def unresolved(error: Exception) -> str:
    """What is wrong with a ${…}."""
    text = str(error)
    if found := re.search(r"Environment variable '(.*)' not found", text):
        return f"the environment variable {found[1]} is not set"
    if found := re.search(r"Interpolation key '(.*)' not found", text):
        return f"there is no setting {found[1]} for ${{{found[1]}}}"
    return "refers to itself" if "Recursive" in text else " ".join(text.splitlines()[0].split())


def _check_value(name: str, value: Any, entry: Field[Any]) -> None:
    """SettingError for a value, or one of a list, that is out of its range."""
    bounds, choices = entry.metadata.get("bounds", {}), entry.metadata.get("choices")
    if not all(BOUNDS[bound][1](value, limit) for bound, limit in bounds.items()):
        most = min((bounds[key] for key in ("below", "at_most") if key in bounds), default=inf)
        raise SettingError(
            name, f"must be {allowed(entry)}, not {value}{number_meant(value, most)}"
        )
    if isinstance(value, float) and not isfinite(value):
        raise SettingError(name, f"must be finite, not {value}")
    if choices and value not in choices and not (entry.metadata["importable"] and "." in value):
        raise SettingError(name, f"there is no {value!r}; {one_of(list(choices), value)}")
    pattern = entry.metadata.get("pattern")
    if pattern and not re.fullmatch(pattern, value):
        raise SettingError(name, f"{value!r} is none of {entry.metadata['meaning']}")
