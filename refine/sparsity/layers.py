"""Which layers have prunable weights, and where are those of one output channel?"""

from typing import TypeGuard

import torch
from torch import Tensor, nn

PRUNABLE_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
)


def prunable_names(model: nn.Module) -> list[str]:
    """Names of the weight tensors (two or more dimensions) of convolutions, linear, attention and
    recurrent layers that train. Biases, norms and embeddings are never among them."""
    owners = (module for module in model.modules() if isinstance(module, PRUNABLE_LAYERS))
    weights = {
        id(parameter)
        for owner in owners
        for name, parameter in owner.named_parameters(recurse=False)
        if "weight" in name and parameter.dim() >= 2 and parameter.requires_grad
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) in weights]


def transposed(layer: nn.Module) -> TypeGuard[nn.modules.conv._ConvTransposeNd]:
    """Whether the layer's weights are (inputs, outputs of a group, ...), not (outputs, ...)."""
    return isinstance(layer, nn.modules.conv._ConvTransposeNd)


def by_output(layer: nn.Module, tensor: Tensor) -> Tensor:
    """A tensor of the layer's weights' shape as (output channels, weights of each)."""
    if not transposed(layer):
        return tensor.flatten(1)
    inputs, outputs = tensor.shape[:2]
    grouped = tensor.reshape(layer.groups, inputs // layer.groups, outputs, -1)
    return grouped.transpose(1, 2).reshape(layer.groups * outputs, -1)


def from_output(layer: nn.Module, rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse: (output channels, weights of each) as a tensor of the weights' ``shape``."""
    if not transposed(layer):
        return rows.reshape(shape)
    inputs, outputs = shape[:2]
    grouped = rows.reshape(layer.groups, outputs, inputs // layer.groups, -1)
    return grouped.transpose(1, 2).reshape(shape)
