"""How many of its survivors does each tensor lose?

Each is a function ``(scores, masks, ratio) -> counts`` with ratio the share of all survivors to
cut. Which weights go is then always by rank inside the tensor.
"""

from collections.abc import Mapping
from math import floor

import torch
from torch import Tensor

from refine.masks import lowest

__all__ = ["global_", "layerwise"]


def cut_count(survivors: int, ratio: float) -> int:
    """How many of ``survivors`` a cut of ``ratio`` takes: those not above their ratio-quantile,
    which is floor(ratio (n - 1)) + 1, but never the last one."""
    return min(floor(ratio * (survivors - 1)) + 1, survivors - 1) if survivors > 1 else 0


def layerwise(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float
) -> dict[str, int]:
    """The same share of every tensor's own survivors: the paper's rule, to the unit."""
    return {
        name: cut_count(int(mask.sum()), ratio) for name, mask in masks.items() if name in scores
    }


def global_(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float
) -> dict[str, int]:
    """One ranking of all survivors; a tensor loses those of its own that rank lowest."""
    names = [name for name in masks if name in scores]
    if not names:
        return {}
    every = torch.cat([scores[name][masks[name]].flatten() for name in names])
    alive = torch.ones_like(every, dtype=torch.bool)
    chosen = lowest(every, alive, cut_count(len(every), ratio))
    parts = chosen.split([int(masks[name].sum()) for name in names])
    return {name: int(part.sum()) for name, part in zip(names, parts, strict=True)}
