"""Where in a weight tensor are the weights of one output channel?"""

import torch
from torch import Tensor, nn


def transposed(layer: nn.Module) -> bool:
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
    """The way back: (output channels, weights of each) to the weights' ``shape``."""
    if not transposed(layer):
        return rows.reshape(shape)
    inputs, outputs = shape[:2]
    grouped = rows.reshape(layer.groups, outputs, inputs // layer.groups, -1)
    return grouped.transpose(1, 2).reshape(shape)
