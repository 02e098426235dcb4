"""Who teaches?"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn


class Teacher(Protocol):
    """A network to learn from. ``steady``: it answers the same throughout a replay."""

    network: nn.Module | None
    steady: bool

    def before_cut(self, model: nn.Module) -> None: ...
    def observe(self, model: nn.Module) -> None: ...


class Self:
    """The network as it was just before the latest cut; it learns from nobody before."""

    steady = True

    def __init__(self) -> None:
        self.network: nn.Module | None = None

    def before_cut(self, model: nn.Module) -> None:
        """Takes a copy of ``model`` as it is."""
        self.network = frozen(model)

    def observe(self, model: nn.Module) -> None:
        """Nothing changes from step to step."""


class Ema:
    """A running average of the network's parameters and buffers over its training steps, each with
    a weight of 1 - decay (Tarvainen & Valpola 2017, arXiv:1703.01780). With several optimizers the
    step of each counts. ValueError unless 0 <= decay < 1."""

    steady = False

    def __init__(self, decay: float = 0.99):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, not {decay}")
        self.decay = decay
        self.network: nn.Module | None = None

    def before_cut(self, model: nn.Module) -> None:
        """A cut changes nothing of the average; before any step it is the network itself."""
        if self.network is None:
            self.network = frozen(model)

    @torch.no_grad()
    def observe(self, model: nn.Module) -> None:
        """Takes the network as it is into the average."""
        if self.network is None:
            self.network = frozen(model)
            return
        for mean, now in zip(tensors(self.network), tensors(model), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now.detach().to(mean), 1 - self.decay)
            else:
                mean.copy_(now)


class Dense:
    """A trained network of the same kind, such as the dense one; it stays as it is."""

    steady = True

    def __init__(self, network: nn.Module):
        self.network: nn.Module | None = frozen(network)

    def before_cut(self, model: nn.Module) -> None:
        """Nothing changes."""

    def observe(self, model: nn.Module) -> None:
        """Nothing changes."""


def frozen(model: nn.Module) -> nn.Module:
    """A copy that does not train: it answers as in evaluation."""
    copy = deepcopy(model).eval().requires_grad_(False)
    for parameter in copy.parameters():
        parameter.grad = None
    return copy


def tensors(model: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers, always in the same order."""
    return [*model.parameters(), *model.buffers()]
