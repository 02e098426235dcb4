"""What is known of a single setting: its meaning, and what it may hold?"""

import math
from dataclasses import field
from typing import Any

from omegaconf import MISSING

BOUNDS = {
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
    choices: dict[str, str] | None = None,
    importable: bool = False,
    pattern: str | None = None,
    default: Any = MISSING,
) -> Any:
    """A field with its one-line meaning and its range.

    ``importable``: beside the ``choices``, a dotted import path is an answer too.
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
        },
    )


def node(meaning: str) -> Any:
    """A free node: ``_target_`` names something importable, the rest are its arguments."""
    return field(default_factory=dict, metadata={"meaning": meaning})


def allowed(entry: Any) -> str:
    """What a setting may hold, in words; empty where its type says it all."""
    choices, bounds = entry.metadata.get("choices"), entry.metadata.get("bounds", {})
    if choices:
        more = ", or an import path" if entry.metadata["importable"] else ""
        return ", ".join(choices) + more
    return " and ".join(f"{BOUNDS[name][0]} {value:g}" for name, value in bounds.items())
