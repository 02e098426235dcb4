"""Which layers of a network can be rewritten here, and of which type are they?"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

Convolution = nn.modules.conv._ConvNd
BatchNorm = nn.modules.batchnorm._BatchNorm


def weighted_layer(network: nn.Module, name: str) -> Convolution | nn.Linear:
    """The convolution or linear layer of that name. ValueError if it is none, AttributeError if
    there is no such layer."""
    layer = network.get_submodule(name)
    if not isinstance(layer, Convolution | nn.Linear):
        raise ValueError(f"{name} is not a convolution or linear layer")
    return layer


def batch_norm(network: nn.Module, name: str) -> BatchNorm:
    """The batch norm of that name. ValueError if it is none, AttributeError if there is no such
    layer."""
    norm = network.get_submodule(name)
    if not isinstance(norm, BatchNorm):
        raise ValueError(f"{name} is not a batch norm")
    return norm


class NormValues(NamedTuple):
    """What a batch norm computes in evaluation mode, for each channel:
    ``(input - mean) / (variance + epsilon).sqrt() * scale + shift``."""

    mean: Tensor
    variance: Tensor
    epsilon: float
    scale: Tensor
    shift: Tensor


def values_of(norm: BatchNorm) -> NormValues | None:
    """The numbers of a batch norm; None if it always normalises by the batch."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return None
    scale = torch.ones_like(mean) if norm.weight is None else norm.weight.detach()
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach()
    return NormValues(mean, variance, norm.eps, scale, shift)
