"""What has the network forgotten?

Accuracies are fractions, one for each task in the order in which they are learned.
"""

from collections.abc import Sequence
from statistics import fmean


def average_accuracy(accuracies: Sequence[float]) -> float:
    """Mean over the tasks seen so far, each counting the same however many images it has
    (A_k of Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112)."""
    return fmean(accuracies)


def forgetting(now: Sequence[float], at_ends: Sequence[Sequence[float]]) -> float:
    """Mean over the tasks before the latest in ``now`` of their best accuracy at the end of one of
    these tasks, less that of ``now`` (F_k of Chaudhry et al. 2018); 0.0 as long as there is one.

    at_ends: for each task that has ended, the accuracies of it and of those before it; what it has
    of the latest task's own end is not looked at. Below 0 where tasks got better since.
    """
    earlier = len(now) - 1
    # A task counts from its own end on: what it had by chance before was not learned.
    lost = [
        max(ended[task] for ended in at_ends[task:earlier]) - now[task] for task in range(earlier)
    ]
    return fmean(lost) if lost else 0.0
