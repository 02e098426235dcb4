"""How many of its cut weights does each tensor get back?

Each is a function ``(candidates) -> counts`` for every name in ``candidates.masks``. The counts sum
to the budget exactly, or to all that is cut if that is less. Which weights return is then always by
rank inside the tensor.
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
    """What an allocation may go by.

    scores: the highest first to return. masks: True where a weight lives. budget: how many return.
    lost: what each tensor lost in this cycle. similarity: computes that of each tensor's feature
    map with the reference's, at most 1. reward: measures counts, the higher the better.
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
    """What each tensor lost in this cycle, or in that proportion."""
    return shared(candidates.lost, candidates.capacities, candidates.budget)


def uniform(candidates: Candidates) -> dict[str, int]:
    """The same share of every tensor's cut weights."""
    return shared(candidates.capacities, candidates.capacities, candidates.budget)


def global_(candidates: Candidates) -> dict[str, int]:
    """One ranking of all cut weights; a tensor gets back those of its own that rank highest."""
    dead = {name: ~mask for name, mask in candidates.masks.items()}
    count = min(candidates.budget, sum(candidates.capacities.values()))
    marked = highest(candidates.scores, dead, count)
    return {name: int(chosen.sum()) for name, chosen in marked.items()}


def greedy(candidates: Candidates) -> dict[str, int]:
    """All that the tensor least like the reference has lost, then the next (arXiv:2511.11675)."""
    similarity, capacities = candidates.similarity(), candidates.capacities
    counts, left = dict.fromkeys(capacities, 0), candidates.budget
    for name in sorted(capacities, key=lambda name: similarity[name]):
        counts[name] = min(left, capacities[name])
        left -= counts[name]
    return counts


def proportional(candidates: Candidates) -> dict[str, int]:
    """In proportion to how unlike the reference a tensor's feature map is: 1 - SSIM
    (arXiv:2511.11675)."""
    unlike = {name: max(0.0, 1 - alike) for name, alike in candidates.similarity().items()}
    return shared(unlike, candidates.capacities, candidates.budget)


def controller(
    candidates: Candidates,
    *,
    episodes: int = 500,
    seconds: float = inf,
    seed: int = 0,
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
) -> dict[str, int]:
    """What a policy learns from trials, each of which costs a measured reward
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
