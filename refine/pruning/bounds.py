"""Which layers have a ratio of their own, and how empty may one become?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil

from torch import Tensor

from refine.pruning.allocation import cut_count, sizes

Rule = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], float], dict[str, int]]


@dataclass(frozen=True)
class Bounded:
    """An allocation that keeps ``rule`` within bounds, to be called as the rule is.

    layers: glob of a tensor (``conv1.weight``) or of its layer (``conv1``) to the share of its
        survivors that goes, 0 for none; the first that matches holds. All others are allocated by
        the rule, with the ratio as given.
    min_layer_density: the share of its weights that every tensor keeps at least. What cannot be
        cut from one is cut from others by the same rule, as far as these have it.

    A call raises ValueError if a glob matches no prunable layer.
    """

    rule: Rule
    layers: Mapping[str, float] = field(default_factory=dict)
    min_layer_density: float = 0.0

    def __call__(
        self, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float
    ) -> dict[str, int]:
        alive = sizes(scores, masks)
        room = {
            # 0.3 * 10 is 3.0000000000000004 in some products; that is still 3
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
        full: dict[str, int] = {}
        while over := [name for name, count in counts.items() if count > room[name]]:
            full |= {name: room[name] for name in over}
            open_ = {name: scores[name] for name in open_ if name not in full}
            counts = self._exactly(open_, masks, wanted - sum(full.values()))
        found = counts | full | set_apart
        return {name: found[name] for name in alive if name in found}

    def own(self, masks: Mapping[str, Tensor]) -> dict[str, float]:
        """The share of every tensor that has one of its own."""
        found: dict[str, float] = {}
        for glob, share in self.layers.items():
            matching = [
                name
                for name in masks
                if fnmatchcase(name, glob) or fnmatchcase(name.rpartition(".")[0], glob)
            ]
            if not matching:
                layers = ", ".join(name.removesuffix(".weight") for name in masks)
                raise ValueError(f"no prunable layer matches {glob!r}; they are {layers}")
            for name in matching:
                found.setdefault(name, share)
        return found

    def _exactly(
        self, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], wanted: int
    ) -> dict[str, int]:
        """The rule's counts at the ratio at which they sum to ``wanted``, or to less if they
        cannot."""
        alive = sizes(scores, masks)
        none = dict.fromkeys(alive, 0)
        if wanted <= 0 or sum(alive.values()) < 2:
            return none
        # A rule that is exact in total takes floor(ratio (n - 1)) + 1.
        ratio = min(wanted - 0.5, sum(alive.values()) - 1.5) / (sum(alive.values()) - 1)
        high = self.rule(scores, masks, ratio)
        if sum(high.values()) == wanted:
            return high
        # One that rounds in every tensor does not: the last ratio that gives no more, and then
        # some of what the next one adds.
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
