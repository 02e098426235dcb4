"""Is a saved state of the kind that this run would save itself?"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# A bool is an int too, so it leads.
KINDS: tuple[Any, ...] = (bool, (int, float), str, list, tuple, Mapping, Tensor)


def check_alike(saved: Any, own: Any, where: str) -> None:
    """ValueError unless ``saved`` holds a number where ``own`` does, text where it has text, and so
    on, through all mappings. What ``own`` has as None may be anything, what only one has too.

    where: the name to say.
    """
    if own is None:
        return
    if _kind(saved) != _kind(own):
        raise ValueError(f"{where} is {saved!r:.40}")
    if isinstance(own, Mapping):
        for name in own.keys() & saved.keys():
            check_alike(saved[name], own[name], f"{where}.{name}")


def _kind(value: Any) -> int:
    return next((i for i, kind in enumerate(KINDS) if isinstance(value, kind)), len(KINDS))
