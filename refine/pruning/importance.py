"""How much does a weight matter?

Each is a function ``(model, batches) -> scores``: a tensor of the parameter's shape for every
parameter, the lowest first to go. ``batches`` is an iterable of (inputs, targets).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["magnitude", "none", "random"]

Scores = dict[str, Tensor]


def magnitude(model: nn.Module, batches: Iterable) -> Scores:
    """|w| (Han et al. 2015, arXiv:1506.02626)."""
    return {name: weight.detach().abs() for name, weight in model.named_parameters()}


def random(model: nn.Module, batches: Iterable) -> Scores:
    """A number by lot for every weight, from torch's CPU generator."""
    return {
        name: torch.rand(weight.shape).to(weight.device)
        for name, weight in model.named_parameters()
    }


def none(model: nn.Module, batches: Iterable) -> Scores:
    """No score for any weight, so that nothing is cut."""
    return {}
