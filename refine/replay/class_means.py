"""What is the mean of each class's features?"""

import torch
from torch import Tensor
from torch.nn import functional as F


class ClassMeans:
    """The mean features of what was added so far; ``means[number]`` is that of a class."""

    def __init__(self) -> None:
        self._sums = torch.empty(0, 0)
        self._counts = torch.empty(0)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Adds a batch: (N, features) and the class number of each. ValueError if a target is no
        class number."""
        if targets.dim() != 1 or targets.is_floating_point() or int(targets.min()) < 0:
            raise ValueError("this replay.storage uses classes, and a target is no class number")
        classes = max(len(self._sums), int(targets.max()) + 1)
        marks = F.one_hot(targets.long(), classes).to(features).T
        sums = marks @ features  # index_add_ sums in another order every time on a GPU
        counts = marks.sum(1)
        if known := len(self._counts):
            sums[:known] += self._sums
            counts[:known] += self._counts
        self._sums, self._counts = sums, counts

    def __getitem__(self, number: int) -> Tensor:
        return self._sums[number] / self._counts[number]
