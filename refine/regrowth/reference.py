"""What was the network when it was denser?"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from refine.sparsity.masks import Masks


class Denser(Protocol):
    """Gives a less sparse network: a ``Reference``, or a cache of what was cut."""

    def denser(self, model: nn.Module, masks: Masks) -> "Reference":
        """That network, given the present one."""


@dataclass(frozen=True)
class Reference:
    """A denser state of a network: ``values`` and ``masks`` (True where a weight lived) of its
    prunable tensors, by name; ``others`` are the rest of its parameters and its buffers, as far as
    they are known. ``vars(reference)`` is tensors only, and ``Reference(**state)`` makes it again.
    """

    values: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    others: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, masks: Mapping[str, Tensor]) -> "Reference":
        """A copy of what ``model`` is now; ``masks`` has its prunable tensors."""
        now = {n: tensor.detach().clone() for n, tensor in _tensors(model).items()}
        values = {name: now.pop(name) for name in masks}
        return cls(values, {name: mask.clone() for name, mask in masks.items()}, now)

    def denser(self, model: nn.Module, masks: Masks) -> "Reference":
        """Itself, whatever the present network is."""
        return self

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], names: Iterable[str]) -> "Reference":
        """The reference in ``tensors``, a network's saved state; a weight lived if it is not zero.
        ValueError if one of the prunable ``names`` is not there."""
        wanted = list(names)
        if missing := [name for name in wanted if name not in tensors]:
            raise ValueError(f"the reference has no tensor {missing[0]!r}; is it of this network?")
        values = {name: tensors[name] for name in wanted}
        others = {name: tensor for name, tensor in tensors.items() if name not in values}
        return cls(values, {name: value != 0 for name, value in values.items()}, others)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """``model`` holds the reference's values, and afterwards its own again, to the bit.

        ValueError if a shape differs. The parameters stay the objects that they are, so that
        optimizers and recurrent layers keep theirs.
        """
        theirs = {**self.others, **self.values}
        mine = {name: tensor for name, tensor in _tensors(model).items() if name in theirs}
        for name, tensor in mine.items():
            if tensor.shape != theirs[name].shape:
                raise ValueError(f"{name} has another shape in the reference than in the network")
        before = {name: tensor.detach().clone() for name, tensor in mine.items()}
        try:
            _copy_(mine, theirs)
            yield
        finally:
            _copy_(mine, before)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def _copy_(to: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for name, tensor in to.items():
        tensor.copy_(source[name])
