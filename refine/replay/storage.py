"""Which examples are kept?

Each is a function ``(candidates, capacity) -> indices`` of those to keep, at most ``capacity``,
the most worth keeping first: a shorter memory is a prefix. It says what it ``reads`` of the
candidates, of ``priorities``, ``lots`` and ``features``; nothing else is computed. What
``persists`` is never begun anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.replay.class_means import ClassMeans

__all__ = ["class_balanced", "herding", "highest", "reservoir"]


@dataclass(frozen=True)
class Candidates:
    """Examples, in the order in which they came, of which some can be kept.

    lots: a number for each that was drawn when it came and stays with it.
    features: of length 1; means: of their features, for the classes of everything seen, kept or
        not.
    """

    targets: Tensor
    priorities: Tensor | None = None
    lots: Tensor | None = None
    features: Tensor | None = None
    means: ClassMeans | None = None


Storage = Callable[[Candidates, int], Tensor]


def reads(*columns: str, persists: bool = False) -> Callable[[Storage], Storage]:
    """Notes on a storage what it goes by, and whether it is one for the whole run."""

    def noted(storage: Storage) -> Storage:
        storage.reads, storage.persists = columns, persists
        return storage

    return noted


def read_by(storage: Storage) -> tuple[str, ...]:
    """The columns that it reads; priorities where it does not say."""
    return getattr(storage, "reads", ("priorities",))


def persists(storage: Storage) -> bool:
    """Whether it is one for the whole run."""
    return getattr(storage, "persists", False)


@reads("priorities")
def highest(candidates: Candidates, capacity: int) -> Tensor:
    """Those of highest priority."""
    return candidates.priorities.topk(min(capacity, len(candidates.priorities))).indices


@reads("priorities")
def class_balanced(candidates: Candidates, capacity: int) -> Tensor:
    """Equally many of every class, of highest priority in it; room that a small class leaves goes
    to the others."""
    best_first = candidates.priorities.argsort(descending=True, stable=True)
    return taking_turns(best_first, candidates.targets)[:capacity]


@reads("features")
def herding(candidates: Candidates, capacity: int) -> Tensor:
    """Equally many of every class, so chosen that the mean of their features is near that of all
    examples of the class that were seen (Welling 2009; iCaRL, Rebuffi et al. 2017,
    arXiv:1611.07725). Exact if at most twice the capacity is seen."""
    features, targets = candidates.features, candidates.targets
    kept = taking_turns(torch.arange(len(targets), device=targets.device), targets)[:capacity]
    chosen = []
    for number, share in _counted(targets[kept]):
        members = (targets == number).nonzero().flatten()
        chosen.append(members[herded(features[members], candidates.means[number], share)])
    return taking_turns(torch.cat(chosen), targets)


@reads("lots", persists=True)
def reservoir(candidates: Candidates, capacity: int) -> Tensor:
    """By lot, so that every example of the whole run's stream so far is equally likely to be kept:
    those of the highest lots, which is a form of Vitter's reservoir (1985, algorithm R)."""
    return candidates.lots.topk(min(capacity, len(candidates.lots))).indices


def taking_turns(order: Tensor, targets: Tensor) -> Tensor:
    """The indices ``order`` so arranged that the classes take turns, as long as they have any left,
    each class's own in the order that they had. So every prefix is balanced."""
    if targets.dim() != 1 or targets.is_floating_point():
        raise ValueError("this replay.storage goes by classes, and a target is no class number")
    classes = targets[order]
    by_class = classes.argsort(stable=True)
    counts = classes.unique(return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = torch.arange(len(order), device=order.device) - first
    return order[by_class[turn.argsort(stable=True)]]


def herded(features: Tensor, mean: Tensor, count: int) -> Tensor:
    """``count`` rows, each next one so that the mean of the chosen comes nearest to ``mean``."""
    half_squares = features.square().sum(1) / 2
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    total, chosen = torch.zeros_like(mean), []
    for number in range(1, count + 1):
        # |number mean - total - feature|², less what all have in common, halved and negated
        nearness = features @ (number * mean - total) - half_squares
        chosen.append(nearness.masked_fill(taken, -torch.inf).argmax())
        taken[chosen[-1]] = True
        total = total + features[chosen[-1]]
    return torch.stack(chosen)


def _counted(classes: Tensor) -> Iterator[tuple[int, int]]:
    numbers, counts = classes.unique(return_counts=True)
    return zip(numbers.tolist(), counts.tolist(), strict=True)
