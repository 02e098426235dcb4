"""How many of its survivors does each tensor lose?

Each is a function ``(scores, masks, ratio) -> counts`` with ratio the share of all survivors to
cut, for the tensors that ``scores`` holds; others lose nothing. Which weights go is then always by
rank inside the tensor.
"""

from collections.abc import Mapping
from math import ceil, floor

from torch import Tensor

from refine.pruning.lamp import lamp_counts
from refine.sparsity.ranking import ends, survivors, threshold

__all__ = ["er", "erk", "global_", "lamp", "layerwise", "uniform_plus"]

LAST_DENSITY = 0.2  # what uniform_plus leaves of the last layer at least


def cut_count(survivors: int, ratio: float) -> int:
    """How many of ``survivors`` a cut of ``ratio`` takes: those not above their ratio-quantile,
    which is floor(ratio (n - 1)) + 1, but never the last one."""
    return min(floor(ratio * (survivors - 1)) + 1, survivors - 1) if survivors > 1 else 0


def layerwise(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float
) -> dict[str, int]:
    """The same share of every tensor's own survivors: the paper's rule, to the unit."""
    return {name: cut_count(size, ratio) for name, size in sizes(scores, masks).items()}


def global_(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float
) -> dict[str, int]:
    """One ranking of all survivors; a tensor loses those of its own that rank lowest."""
    names = sizes(scores, masks)
    parts = [(scores[name], masks[name]) for name in names]
    for part in parts:
        ends(*part)  # refuses NaN
    count = cut_count(sum(names.values()), ratio)
    counts = threshold(parts, count).counts(count) if count else [0] * len(parts)
    return dict(zip(names, counts, strict=True))


def lamp(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float) -> dict[str, int]:
    """One ranking by each score's share of the squares at and above it in its layer (LAMP,
    arXiv:2010.07611); of scores with a sign, a layer's are first raised to be at least 0."""
    names = sizes(scores, masks)
    parts = [(scores[name], masks[name]) for name in names]
    return dict(zip(names, lamp_counts(parts, cut_count(sum(names.values()), ratio)), strict=True))


def uniform_plus(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float
) -> dict[str, int]:
    """The same density everywhere, but nothing of the first convolution and no more of the last
    layer than leaves 20 % of it (Gale et al. 2019, arXiv:1902.09574). If the others have not
    enough to give, these two have no privilege."""
    names = sizes(scores, masks)
    least = dict.fromkeys(names, 1)
    first = next((name for name in masks if masks[name].dim() > 2), None)
    last = list(masks)[-1]
    if last in names:
        least[last] = max(1, ceil(LAST_DENSITY * masks[last].numel()))
    if first in names:
        least[first] = names[first]
    return in_proportion({name: masks[name].numel() for name in names}, names, ratio, least)


def er(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float) -> dict[str, int]:
    """As many survivors as a layer has inputs and outputs, in proportion (Erdős-Rényi: Mocanu et
    al. 2018, arXiv:1707.04780)."""
    names = sizes(scores, masks)
    return in_proportion({name: sum(masks[name].shape[:2]) for name in names}, names, ratio)


def erk(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float) -> dict[str, int]:
    """As many survivors as inputs, outputs and sides of the kernel, in proportion (Erdős-Rényi
    kernel: Evci et al. 2020, arXiv:1911.11134)."""
    names = sizes(scores, masks)
    return in_proportion({name: sum(masks[name].shape) for name in names}, names, ratio)


def sizes(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """How many survivors each tensor has that takes part."""
    return {name: survivors(mask) for name, mask in masks.items() if name in scores}


def in_proportion(
    shares: Mapping[str, float],
    most: Mapping[str, int],
    ratio: float,
    least: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """What each tensor loses so that survivors stand in proportion to the ``shares``.

    Nothing grows back: a tensor that would need more than it has stays as it is, one that would
    have fewer than its ``least`` keeps these (1 if they cannot all), and the rest is solved again.
    Exact in total, unless tensors are more than survivors; rounded by largest remainder.
    """
    total = sum(most.values()) - cut_count(sum(most.values()), ratio)
    floors = {name: min((least or {}).get(name, 1), size) for name, size in most.items()}
    if sum(floors.values()) > total:
        floors = {name: min(1, size) for name, size in most.items()}
        total = max(total, sum(floors.values()))

    def kept(level: float) -> dict[str, float]:
        return {
            name: min(max(level * share, floors[name]), most[name])
            for name, share in shares.items()
        }

    bends = sorted(bound[name] / shares[name] for name in shares for bound in (floors, most))
    if not bends:
        return {}
    # Between neighbouring bends what is kept rises in a straight line.
    upper = next((i for i, bend in enumerate(bends) if sum(kept(bend).values()) >= total), -1)
    level = bends[upper]
    if upper > 0:
        low, high = (sum(kept(bend).values()) for bend in bends[upper - 1 : upper + 1])
        level = bends[upper - 1]
        if high > low:
            level += (bends[upper] - bends[upper - 1]) * (total - low) / (high - low)
    exact = kept(level)
    keep = {name: floor(amount + 1e-6) for name, amount in exact.items()}  # 2.9999999999 is 3
    for name in sorted(keep, key=lambda name: keep[name] - exact[name]):
        if sum(keep.values()) < total and keep[name] < most[name]:
            keep[name] += 1
    return {name: most[name] - keep[name] for name in most}
