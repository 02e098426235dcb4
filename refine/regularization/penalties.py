"""Which penalty pulls weights towards zero?

Each is a function ``(parameters, weights, strength) -> None`` that adds the penalty's gradient to
the gradients of ``parameters``, by name. ``strength`` is a number, or one for each channel of
``weights``. None of them moves a weight of exactly 0.0, such as one that a mask has cut.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from refine.regularization.weights import Weights, open_gradient

__all__ = ["bn_scale", "group_norm", "growing_reg", "l1", "none"]

Parameters = Mapping[str, nn.Parameter]
Penalty = Callable[[Parameters, Weights, Any], None]  # a strength, or one for each channel


def none(parameters: Parameters, weights: Weights, strength: float | Tensor) -> None:
    """Nothing."""


def l1(parameters: Parameters, weights: Weights, strength: float) -> None:
    """strength * sign(w) for every prunable weight."""
    _add_signs_([parameters[name] for name in weights.prunable], strength)


def bn_scale(parameters: Parameters, weights: Weights, strength: float) -> None:
    """strength * sign(gamma) for the scales of the batch norms whose channels can be pruned
    (Network Slimming, Liu et al. 2017, arXiv:1708.06519)."""
    _add_signs_([parameters[name] for name in weights.scales], strength)


def group_norm(parameters: Parameters, weights: Weights, strength: float) -> None:
    """strength * f * w for all weights of a channel. Within a group f rises from 1 for the channel
    with the greatest norm to 16 for that with the least (DepGraph, Fang et al. 2023,
    arXiv:2301.12900, eq. 5, with its exponent of 4); it is 1 for all if their norms are equal."""
    norms = weights.squared_norms(parameters).sqrt()
    weights.add_decay_(parameters, strength * 2 ** (4 * weights.lag(norms)))


def growing_reg(parameters: Parameters, weights: Weights, strength: Tensor) -> None:
    """strength_k * w for all weights of channel k. The Regularizer lets the strengths grow by
    ``grown`` (GReg, Wang et al. 2021, arXiv:2012.09243, over groups as in torch-pruning)."""
    weights.add_decay_(parameters, strength)


def grown(parameters: Parameters, weights: Weights, strength: Tensor, growth: float) -> Tensor:
    """The next epoch's strengths: for the channel of a group with the least squared norm ``growth``
    more, for that with the greatest no more, and in proportion between them."""
    return strength + growth * weights.lag(weights.squared_norms(parameters))


def _add_signs_(parameters: list[nn.Parameter], strength: float) -> None:
    found = [
        (gradient, parameter)
        for parameter in parameters
        if (gradient := open_gradient(parameter)) is not None
    ]
    if found:
        gradients, values = zip(*found, strict=True)
        torch._foreach_add_(gradients, torch._foreach_sign(values), alpha=strength)
