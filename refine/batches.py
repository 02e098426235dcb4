"""What is a batch, which batches does a refinement use, and on which device?

A batch is ``(inputs, targets)``. What people's loaders give is brought to that form by ``split``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from refine.rng import random_state, set_random_state

# What a network is called with: a tensor, a mapping of keyword arguments, or a tuple of positional
# ones.
Inputs = Any
Batch = tuple[Inputs, Tensor]  # inputs, targets


def split(batch: Any) -> Batch:
    """A loader's batch as (inputs, targets).

    (inputs, targets), with inputs that are a tensor, a mapping or a tuple, stays as it is. Of a
    longer tuple or list the last is the targets, the others are the inputs. A mapping, such as
    Hugging Face's, has the targets in ``labels``. A tensor alone, or [tensor], is its own target.
    ValueError for anything else.
    """
    if isinstance(batch, Tensor):
        return batch, batch
    if isinstance(batch, Mapping):
        if not isinstance(batch.get("labels"), Tensor):
            keys = ", ".join(map(str, batch))
            raise ValueError(f"a batch that is a mapping needs a tensor `labels`; it has {keys}")
        return dict(batch), batch["labels"]
    if not isinstance(batch, tuple | list) or not batch:
        raise ValueError(f"a batch must be (inputs, targets) or a mapping, not {_kind(batch)}")
    *inputs, targets = batch
    if not isinstance(targets, Tensor):
        raise ValueError(f"the targets of a batch, its last entry, are no tensor: {_kind(targets)}")
    if not inputs:
        return targets, targets
    return (_plain(inputs[0]) if len(inputs) == 1 else tuple(inputs)), targets


def each_tensor(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """``inputs`` with every tensor changed, also those in nested mappings, tuples and lists."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {name: each_tensor(value, change) for name, value in inputs.items()}
    if type(inputs) in (tuple, list):
        return type(inputs)(each_tensor(value, change) for value in inputs)
    return inputs


def taken(inputs: Inputs, which: Tensor | slice) -> Inputs:
    """The examples of ``inputs`` at these places."""
    return each_tensor(inputs, lambda tensor: tensor[which])


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
    """A loader whose batches are split and moved to ``device``."""

    def __init__(self, loader: Iterable[Any], device: torch.device):
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            inputs, targets = split(batch)
            yield each_tensor(inputs, self._moved), self._moved(targets)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)


class Rewound:
    """An iterator, which can be read only once, whose first ``count`` batches stay: a pass that
    stops within them, such as for scores, takes nothing from a later one."""

    def __init__(self, iterator: Iterator[Any], count: int):
        self._iterator, self._count = iterator, count
        self._first: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self._first
        for batch in self._iterator:
            if len(self._first) < self._count:
                self._first.append(batch)
            yield batch


def _plain(inputs: Any) -> Inputs:
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def _kind(value: object) -> str:
    return type(value).__name__
