"""How many of its survivors does each tensor lose?

Each is a function ``(scores, masks, ratio) -> counts``, where ``ratio`` is the share of all
survivors to cut. Tensors without scores lose nothing. Inside a tensor the lowest scores always go
first. ``BoundedAllocation`` keeps one of these functions within bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil, floor

from refine.pruning import Allocation, Counts, Tensors
from refine.pruning.lamp import lamp_counts
from refine.sparsity.layers import layer_path
from refine.sparsity.ranking import ends, survivors, threshold

__all__ = ["er", "erk", "global_", "lamp", "layerwise", "uniform_plus"]

LAST_DENSITY = 0.2  # the share of the last layer that uniform_plus leaves at least


def cut_count(survivors: int, ratio: float) -> int:
    """How many of ``survivors`` a cut of ``ratio`` takes: those not above their ratio-quantile,
    which is floor(ratio (n - 1)) + 1, but never the last one."""
    return min(floor(ratio * (survivors - 1)) + 1, survivors - 1) if survivors > 1 else 0


def layerwise(scores: Tensors, masks: Tensors, ratio: float) -> Counts:
    """The same share of every tensor's own survivors: the paper's rule, exact to the weight."""
    return {name: cut_count(size, ratio) for name, size in sizes(scores, masks).items()}


def global_(scores: Tensors, masks: Tensors, ratio: float) -> Counts:
    """One ranking of all survivors; a tensor loses those of its own that rank lowest."""
    names = sizes(scores, masks)
    parts = [(scores[name], masks[name]) for name in names]
    for part in parts:
        ends(*part)  # refuses NaN
    count = cut_count(sum(names.values()), ratio)
    counts = threshold(parts, count).counts(count) if count else [0] * len(parts)
    return dict(zip(names, counts, strict=True))


def lamp(scores: Tensors, masks: Tensors, ratio: float) -> Counts:
    """One ranking by each score's share of the squares at and above it in its layer (LAMP,
    arXiv:2010.07611). A layer's negative scores are first raised to at least 0."""
    names = sizes(scores, masks)
    parts = [(scores[name], masks[name]) for name in names]
    return dict(zip(names, lamp_counts(parts, cut_count(sum(names.values()), ratio)), strict=True))


def uniform_plus(scores: Tensors, masks: Tensors, ratio: float) -> Counts:
    """The same density everywhere, but the first convolution loses nothing and the last layer keeps
    at least 20 % of its weights (Gale et al. 2019, arXiv:1902.09574). If the other layers cannot
    lose enough, these two have no privilege."""
    names = sizes(scores, masks)
    least = dict.fromkeys(names, 1)
    first = next((name for name in masks if masks[name].dim() > 2), None)
    last = list(masks)[-1]
    if last in names:
        least[last] = max(1, ceil(LAST_DENSITY * masks[last].numel()))
    if first in names:
        least[first] = names[first]
    return in_proportion({name: masks[name].numel() for name in names}, names, ratio, least)


def er(scores: Tensors, masks: Tensors, ratio: float) -> Counts:
    """Survivors in proportion to a layer's inputs plus outputs (Erdős-Rényi: Mocanu et al. 2018,
    arXiv:1707.04780)."""
    names = sizes(scores, masks)
    return in_proportion({name: sum(masks[name].shape[:2]) for name in names}, names, ratio)


def erk(scores: Tensors, masks: Tensors, ratio: float) -> Counts:
    """Survivors in proportion to a layer's inputs plus outputs plus the sides of its kernel
    (Erdős-Rényi kernel: Evci et al. 2020, arXiv:1911.11134)."""
    names = sizes(scores, masks)
    return in_proportion({name: sum(masks[name].shape) for name in names}, names, ratio)


def sizes(scores: Tensors, masks: Tensors) -> Counts:
    """How many survivors each tensor with scores has."""
    return {name: survivors(mask) for name, mask in masks.items() if name in scores}


def in_proportion(
    shares: Mapping[str, float],
    most: Mapping[str, int],
    ratio: float,
    least: Mapping[str, int] | None = None,
) -> Counts:
    """How many weights each tensor loses so that the survivors are in proportion to ``shares``.

    Nothing grows back: a tensor that would need more survivors than the ``most`` that it has stays
    as it is. One that would have fewer than its ``least`` keeps that many (all only 1 if that is
    too much in total). The others share the rest in proportion. Exact in total, unless there are
    more tensors than survivors; rounded by largest remainder.
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
    # Between neighbouring bends the number that is kept rises in a straight line.
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


@dataclass(frozen=True)
class BoundedAllocation:
    """An allocation that keeps another one, ``rule``, within bounds.

    layers: from the glob of a tensor (``conv1.weight``) or of its layer (``conv1``) to the share of
        its survivors that goes, 0 for none; the first glob that matches counts. All other tensors
        are allocated by the rule, with the ratio as given.
    min_layer_density: the share of its weights that every tensor keeps at least. What cannot be
        cut from one tensor is cut from others by the same rule, as far as they have enough.

    A call raises ValueError if a glob matches no prunable layer.
    """

    rule: Allocation
    layers: Mapping[str, float] = field(default_factory=dict)
    min_layer_density: float = 0.0

    def __call__(self, scores: Tensors, masks: Tensors, ratio: float) -> Counts:
        alive = sizes(scores, masks)
        room = {
            # Some products are 3.0000000000000004 where 3 is meant.
            name: max(0, alive[name] - ceil(self.min_layer_density * masks[name].numel() - 1e-9))
            for name in alive
        }
        own = {name: share for name, share in self.own(masks).items() if name in alive}
        set_apart = {
            name: min(cut_count(alive[name], share), room[name]) if share else 0
            for name, share in own.items()
        }
        open_ = {name: scores[name] for name in scores if name not in own}
        counts = self.rule(open_, masks, ratio)
        wanted = sum(counts.values())
        full: Counts = {}
        while over := [name for name, count in counts.items() if count > room[name]]:
            full |= {name: room[name] for name in over}
            open_ = {name: scores[name] for name in open_ if name not in full}
            counts = self._exactly(open_, masks, wanted - sum(full.values()))
        found = counts | full | set_apart
        return {name: found[name] for name in alive if name in found}

    def own(self, masks: Tensors) -> dict[str, float]:
        """The share of each tensor that ``layers`` gives one."""
        found: dict[str, float] = {}
        for glob, share in self.layers.items():
            matching = [
                name
                for name in masks
                if fnmatchcase(name, glob) or fnmatchcase(layer_path(name), glob)
            ]
            if not matching:
                layers = ", ".join(name.removesuffix(".weight") for name in masks)
                raise ValueError(f"no prunable layer matches {glob!r}; they are {layers}")
            for name in matching:
                found.setdefault(name, share)
        return found

    def _exactly(self, scores: Tensors, masks: Tensors, wanted: int) -> Counts:
        """The rule's counts at a ratio at which they sum to ``wanted``, or to less if there is no
        such ratio."""
        alive = sizes(scores, masks)
        none = dict.fromkeys(alive, 0)
        if wanted <= 0 or sum(alive.values()) < 2:
            return none
        # A rule that is exact in total takes floor(ratio (n - 1)) + 1.
        ratio = min(wanted - 0.5, sum(alive.values()) - 1.5) / (sum(alive.values()) - 1)
        high = self.rule(scores, masks, ratio)
        if sum(high.values()) == wanted:
            return high
        # A rule that rounds in every tensor does not. Then: the highest ratio that gives no more
        # than wanted, and some of what a slightly higher one adds.
        low, start, end = none, 0.0, 1.0
        for _ in range(50):
            ratio = (start + end) / 2
            counts = self.rule(scores, masks, ratio)
            if sum(counts.values()) <= wanted:
                low, start = counts, ratio
            else:
                high, end = counts, ratio
        lack = wanted - sum(low.values())
        for name in low:
            more = min(max(0, high[name] - low[name]), lack)
            low, lack = low | {name: low[name] + more}, lack - more
        return low
