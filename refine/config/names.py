"""How is a setting named, and which of them make no other run?"""

from collections.abc import Iterable, Iterator
from typing import Any

# Where and how a run is made and who is told of it; not what it is.
APART = (
    "output_dir", "dataset.root", "device", "save_model", "resume", "checkpoint", "sweep",
    "tracker",
)  # fmt: skip

# What a pruner of channels can be told to reach: of each run at most one.
TARGETS = ("target_speedup", "target_macs", "target_parameters")


def within(name: str, names: Iterable[str]) -> bool:
    """Whether the setting ``name`` is one of ``names``, or stands below one."""
    return any(f"{name}.".startswith(f"{entry}.") for entry in names)


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a nested dictionary with its dotted name; a kind as ``model``."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.removesuffix("."), value
        else:
            yield f"{prefix}{key}", value
