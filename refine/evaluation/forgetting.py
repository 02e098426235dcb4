"""How much has the network forgotten of earlier tasks?

Accuracies are fractions, one for each task in the order in which they are learned.
"""

from collections.abc import Sequence
from statistics import fmean


def average_accuracy(accuracies: Sequence[float]) -> float:
    """Mean over the tasks seen so far, each counting the same however many images it has
    (A_k of Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112)."""
    return fmean(accuracies)


def forgetting(now: Sequence[float], at_ends: Sequence[Sequence[float]]) -> float:
    """How much accuracy the tasks before the latest have lost, on average (F_k of Chaudhry et al.
    2018); 0.0 as long as there is only one task, negative if they have become better since.

    now: the present accuracy of every task so far. at_ends: for each task that has ended, the
    accuracies at that moment of it and of those before it. A task has lost the difference between
    its best accuracy at the end of an earlier task than the latest, and the present one.
    """
    earlier = len(now) - 1
    # A task counts from its own end on: accuracy before that is chance, not learned.
    lost = [
        max(ended[task] for ended in at_ends[task:earlier]) - now[task] for task in range(earlier)
    ]
    return fmean(lost) if lost else 0.0
