"""Which batches does a refinement use, and on which device?"""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from refine.rng import random_state, set_random_state

Batch = tuple[Tensor, Tensor]  # inputs, targets


class Samples:
    """The first ``count`` batches of a loader, the same in every pass.

    They are drawn in the first pass. Even if the loader shuffles, the generators that training
    draws from are afterwards as they were.
    """

    def __init__(self, batches: Iterable[Batch], count: int):
        self._batches, self._count = batches, count
        self._drawn: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._drawn is None:
            state = random_state()
            loader = getattr(self._batches, "loader", self._batches)
            own = getattr(loader, "generator", None)  # a DataLoader's
            before = own.get_state() if isinstance(own, torch.Generator) else None
            self._drawn = list(islice(self._batches, self._count))
            set_random_state(state)
            if isinstance(own, torch.Generator) and before is not None:
                own.set_state(before)
        return iter(self._drawn)


class OnDevice:
    """A loader whose batches are moved to ``device``."""

    def __init__(self, loader: Iterable[Batch], device: torch.device):
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets in self.loader:
            yield inputs.to(self.device), targets.to(self.device)
