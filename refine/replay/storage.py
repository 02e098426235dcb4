"""Which examples are kept?

Each is a function ``(candidates, capacity) -> indices`` of those to keep, at most ``capacity``,
the most valuable first: a prefix of them is a shorter memory. The decorator ``reads`` names the
columns that it uses, of ``priorities``, ``draws`` and ``features``; no others are computed. The
memory of one that ``persists`` is never filled anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from refine.replay.class_means import ClassMeans

__all__ = ["class_balanced", "herding", "highest", "reservoir"]


@dataclass(frozen=True)
class Candidates:
    """Examples, in the order in which they came, of which some can be kept.

    draws: a random number for each, drawn when it came, which stays with it.
    features: scaled to length 1; means: of the features of everything seen, kept or not, by class.
    """

    targets: Tensor
    priorities: Tensor | None = None
    draws: Tensor | None = None
    features: Tensor | None = None
    means: ClassMeans | None = None


Storage = Callable[[Candidates, int], Tensor]
T = TypeVar("T")


def reads(*columns: str, persists: bool = False) -> Callable[[Storage], Storage]:
    """Notes on a storage which columns it uses, and whether its memory lasts for the whole run."""

    def noted(storage: Storage) -> Storage:
        vars(storage).update(reads=columns, persists=persists)
        return storage

    return noted


def read_by(storage: Storage) -> tuple[str, ...]:
    """The columns that it uses; priorities if it names none."""
    return getattr(storage, "reads", ("priorities",))


def persists(storage: Storage) -> bool:
    """Whether its memory lasts for the whole run."""
    return getattr(storage, "persists", False)


@reads("priorities")
def highest(candidates: Candidates, capacity: int) -> Tensor:
    """Those of highest priority."""
    priorities = _read(candidates.priorities)
    return priorities.topk(min(capacity, len(priorities))).indices


@reads("priorities")
def class_balanced(candidates: Candidates, capacity: int) -> Tensor:
    """Equally many of every class, those of highest priority; room that a small class leaves goes
    to the others."""
    best_first = _read(candidates.priorities).argsort(descending=True, stable=True)
    return taking_turns(best_first, candidates.targets)[:capacity]


@reads("features")
def herding(candidates: Candidates, capacity: int) -> Tensor:
    """Equally many of every class, chosen so that the mean of their features is near that of all
    examples of the class that were seen (Welling 2009; iCaRL, Rebuffi et al. 2017,
    arXiv:1611.07725). Exact if at most twice the capacity is seen."""
    features, targets = _read(candidates.features), candidates.targets
    means = _read(candidates.means)
    kept = taking_turns(torch.arange(len(targets), device=targets.device), targets)[:capacity]
    chosen = []
    for number, share in _counted(targets[kept]):
        members = (targets == number).nonzero().flatten()
        chosen.append(members[herded(features[members], means[number], share)])
    return taking_turns(torch.cat(chosen), targets)


@reads("draws", persists=True)
def reservoir(candidates: Candidates, capacity: int) -> Tensor:
    """At random, so that every example of the whole run so far is equally likely to be kept: those
    with the highest draws, which is a form of Vitter's reservoir (1985, algorithm R)."""
    draws = _read(candidates.draws)
    return draws.topk(min(capacity, len(draws))).indices


def taking_turns(order: Tensor, targets: Tensor) -> Tensor:
    """The indices ``order``, arranged so that the classes take turns as long as they have any left.
    Those of one class keep their order. So every prefix is balanced."""
    if targets.dim() != 1 or targets.is_floating_point():
        raise ValueError("this replay.storage uses classes, and a target is no class number")
    classes = targets[order]
    by_class = classes.argsort(stable=True)
    counts = classes.unique(return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = torch.arange(len(order), device=order.device) - first
    return order[by_class[turn.argsort(stable=True)]]


def herded(features: Tensor, mean: Tensor, count: int) -> Tensor:
    """``count`` rows. Each is chosen so that the mean of those so far comes nearest to ``mean``."""
    half_squares = features.square().sum(1) / 2
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    total, chosen = torch.zeros_like(mean), []
    for number in range(1, count + 1):
        # |number mean - total - feature|², without what is the same for all, halved and negated
        nearness = features @ (number * mean - total) - half_squares
        chosen.append(nearness.masked_fill(taken, -torch.inf).argmax())
        taken[chosen[-1]] = True
        total = total + features[chosen[-1]]
    return torch.stack(chosen)


def _counted(classes: Tensor) -> Iterator[tuple[int, int]]:
    numbers, counts = classes.unique(return_counts=True)
    return zip(numbers.tolist(), counts.tolist(), strict=True)


def _read(column: T | None) -> T:
    """A column that the storage named."""
    if column is None:
        raise ValueError("a storage can use only the columns that it names with reads()")
    return column
