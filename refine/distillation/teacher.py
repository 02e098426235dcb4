"""From which network does a pruned one learn?"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from refine.sparsity.copies import copy_of


class Teacher(Protocol):
    """A network to learn from; None at first. ``steady``: it stays the same during a replay."""

    network: nn.Module | None
    steady: bool

    def before_cut(self, model: nn.Module) -> None:
        """Called with the network just before a cut."""

    def observe(self, model: nn.Module) -> None:
        """Called with the network after each of its training steps."""


class Self:
    """The network as it was just before the latest cut; none before the first."""

    steady = True

    def __init__(self) -> None:
        self.network: nn.Module | None = None

    def before_cut(self, model: nn.Module) -> None:
        """Takes a copy of ``model`` as it is."""
        self.network = frozen(model)

    def observe(self, model: nn.Module) -> None:
        """Nothing changes from step to step."""


class Ema:
    """A running average of the network's parameters and buffers over its training steps; each step
    has a weight of 1 - decay (Tarvainen & Valpola 2017, arXiv:1703.01780). With several optimizers
    every one's steps count. ValueError unless 0 <= decay < 1."""

    steady = False

    def __init__(self, decay: float = 0.99):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, not {decay}")
        self.decay = decay
        self.network: nn.Module | None = None

    def before_cut(self, model: nn.Module) -> None:
        """A cut does not change the average; before any step it is the network itself."""
        if self.network is None:
            self.network = frozen(model)

    @torch.no_grad()
    def observe(self, model: nn.Module) -> None:
        """Adds the network as it is to the average."""
        if self.network is None:
            self.network = frozen(model)
            return
        for mean, now in zip(tensors(self.network), tensors(model), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now.detach().to(mean), 1 - self.decay)
            else:
                mean.copy_(now)


class Dense:
    """A trained network of any architecture, such as the dense one; it stays as it is. Features are
    matched only if the student has as many."""

    steady = True

    def __init__(self, network: nn.Module):
        self.network: nn.Module | None = frozen(network)

    def before_cut(self, model: nn.Module) -> None:
        """Nothing changes."""

    def observe(self, model: nn.Module) -> None:
        """Nothing changes."""


class Renormalized(nn.Module):
    """A ``network`` for images that were normalised by another mean and deviation than those of its
    training: each channel is multiplied by ``scale`` and ``shift`` is added, two (C,) tensors."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, scale: Tensor, shift: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Any:
        """What the network says of ``images``, (N, C, height, width)."""
        return self.network(images * self.scale + self.shift)


def frozen(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that does not train."""
    copy = copy_of(model).eval().requires_grad_(False)
    for parameter in copy.parameters():
        parameter.grad = None
    return copy


def tensors(model: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers, always in the same order."""
    return [*model.parameters(), *model.buffers()]
