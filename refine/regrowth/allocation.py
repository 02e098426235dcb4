"""How many of its cut weights does each tensor get back?

Each is a function ``(candidates) -> counts`` for every name in ``candidates.masks``. The counts sum
to the budget exactly, or to the number of cut weights if that is less. Inside a tensor the weights
with the highest scores always return.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from torch import Tensor

from refine.records.rows import EpisodeRow
from refine.regrowth.controller import allocate
from refine.regrowth.shares import shared
from refine.sparsity.ranking import highest

__all__ = ["controller", "cut", "global_", "greedy", "proportional", "uniform"]


@dataclass(frozen=True)
class Candidates:
    """What an allocation can use.

    scores: the highest return first. masks: True where a weight lives. budget: how many return.
    lost: how many weights each tensor lost in this cycle. similarity: computes how similar each
    tensor's feature map is to the reference's, at most 1. reward: measures how good counts are, the
    higher the better.
    """

    scores: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    budget: int
    lost: Mapping[str, int]
    similarity: Callable[[], Mapping[str, float]]
    reward: Callable[[dict[str, int]], float]

    @property
    def capacities(self) -> dict[str, int]:
        """How many weights of each tensor are cut."""
        return {name: mask.numel() - int(mask.sum()) for name, mask in self.masks.items()}


def cut(candidates: Candidates) -> dict[str, int]:
    """As many as each tensor lost in this cycle, or in proportion to that."""
    return shared(candidates.lost, candidates.capacities, candidates.budget)


def uniform(candidates: Candidates) -> dict[str, int]:
    """The same share of every tensor's cut weights."""
    return shared(candidates.capacities, candidates.capacities, candidates.budget)


def global_(candidates: Candidates) -> dict[str, int]:
    """One ranking of all cut weights: each tensor gets back those of its own that rank highest."""
    dead = {name: ~mask for name, mask in candidates.masks.items()}
    count = min(candidates.budget, sum(candidates.capacities.values()))
    marked = highest(candidates.scores, dead, count)
    return {name: int(chosen.sum()) for name, chosen in marked.items()}


def greedy(candidates: Candidates) -> dict[str, int]:
    """All cut weights of the tensor that is least similar to the reference, then those of the next
    (arXiv:2511.11675)."""
    similarity, capacities = candidates.similarity(), candidates.capacities
    counts, left = dict.fromkeys(capacities, 0), candidates.budget
    for name in sorted(capacities, key=lambda name: similarity[name]):
        counts[name] = min(left, capacities[name])
        left -= counts[name]
    return counts


def proportional(candidates: Candidates) -> dict[str, int]:
    """In proportion to 1 - SSIM, how different a tensor's feature map is from the reference's
    (arXiv:2511.11675)."""
    different = {name: max(0.0, 1 - alike) for name, alike in candidates.similarity().items()}
    return shared(different, candidates.capacities, candidates.budget)


def controller(
    candidates: Candidates,
    *,
    episodes: int = 500,
    seconds: float = inf,
    seed: int = 0,
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
) -> dict[str, int]:
    """The best counts that a learned policy finds; it measures the reward of every trial
    (arXiv:2511.11675)."""
    counts = dict.fromkeys(candidates.masks, 0)
    return counts | allocate(
        {name: capacity for name, capacity in candidates.capacities.items() if capacity},
        candidates.budget,
        lambda some: candidates.reward(counts | some),
        episodes=episodes,
        seconds=seconds,
        seed=seed,
        on_episode=on_episode,
    )
