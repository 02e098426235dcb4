"""What is a setting called, what does it mean, and which values may it have?"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, field
from pathlib import Path
from typing import Any

from refine.errors import SettingError
from refine.renamed import current

# Where and how a run is made and recorded. Runs that differ only in these are the same run.
APART = (
    "output_dir", "dataset.root", "device", "save_model", "figure_formats", "resume",
    "checkpoint", "sweep", "tracker",
)  # fmt: skip

# Targets of a pruner of channels; a run has at most one.
TARGETS = ("target_speedup", "target_macs", "target_parameters")
BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "above": ("above", lambda value, bound: value > bound),
    "at_least": ("at least", lambda value, bound: value >= bound),
    "below": ("below", lambda value, bound: value < bound),
    "at_most": ("at most", lambda value, bound: value <= bound),
}


def setting(
    meaning: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    choices: Mapping[str, str] | None = None,
    importable: bool = False,
    pattern: str | None = None,
    text: bool = False,
    default: Any = MISSING,
) -> Any:
    """A dataclass field with its one-line meaning and its range; without a default it is required.

    ``importable``: besides the ``choices``, it takes a dotted import path. ``text``: a path or
    other text, whatever its characters are.
    """
    bounds = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return field(
        default=default,
        metadata={
            "meaning": meaning,
            "bounds": {name: value for name, value in bounds.items() if math.isfinite(value)},
            "choices": choices,
            "importable": importable,
            "pattern": pattern,
            "text": text,
        },
    )


def allowed(entry: Field[Any]) -> str:
    """The allowed values of a setting, as text; empty where its type says it all."""
    choices, bounds = entry.metadata.get("choices"), entry.metadata.get("bounds", {})
    if choices:
        more = ", or an import path" if entry.metadata["importable"] else ""
        return ", ".join(choices) + more
    return " and ".join(f"{BOUNDS[name][0]} {value:g}" for name, value in bounds.items())


def number_meant(value: object, at_most: float = 1.0) -> str:
    """What to add to an error on a number: a share that was given in per cent, or a decimal comma;
    empty without a guess. at_most: the setting's upper bound."""
    text = str(value).strip()
    if re.fullmatch(r"-?\d+,\d+", text):
        return f"; a decimal point makes it {text.replace(',', '.')}"
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", text)
    if at_most <= 1 and found and 1 <= float(found[1]) < 100:
        return f"; {float(found[1]):g} % is {float(found[1]) / 100:g}"
    return ""


def path_of(setting: str, text: str | Path) -> Path:
    """The path that ``text`` is, with ~ for a home. SettingError if there is no such home, or no
    system call can take it."""
    try:
        path = Path(text).expanduser()
        path.is_dir()  # refuses, among others, a name that is too long
    except RuntimeError:
        raise SettingError(setting, f"{text!s:.80}: there is no home of that user") from None
    except OSError as error:
        raise SettingError(setting, f"cannot read {text!s:.80}: {error.strerror}") from None
    return path


def within(name: str, names: Iterable[str]) -> bool:
    """Whether the setting ``name`` is one of ``names``, or stands below one."""
    return any(f"{name}.".startswith(f"{entry}.") for entry in names)


def below(node: str, *keys: str) -> tuple[str, ...]:
    """The dotted names of a node's ``keys``."""
    return tuple(f"{node}.{key}" for key in keys)


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a nested dictionary with its dotted name; ``model`` is the present import
    path of ``model._target_``."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.removesuffix("."), current(value) if isinstance(value, str) else value
        else:
            yield f"{prefix}{key}", value
