"""Which batch norms can be folded into the layer before them, and what is the network then?

In evaluation mode a batch norm is a factor and an offset for each channel, which the convolution
or linear layer that alone feeds it can do itself.
"""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from refine.export.equality import Answers
from refine.export.network_file import fold_away_
from refine.sparsity.topology import traced

TOLERANCE = 1e-4  # of the outputs' scale; the folded weights are rounded once more


class Folded(NamedTuple):
    """``network``: the copy; ``norms``: those that are gone, each with the layer that does their
    work; ``note``: why none is, if so."""

    network: nn.Module
    norms: dict[str, str]
    note: str = ""


def folded(model: nn.Module, example: Tensor) -> Folded:
    """A copy of ``model``, in evaluation mode, with its batch norms folded where that changes
    nothing. example: inputs that it takes, (N, ...)."""
    pairs = _pairs(model)
    if pairs is None:
        return Folded(deepcopy(model).eval(), {}, "no norm is folded: torch.fx cannot follow it")
    answers = Answers(model, example)
    network = _with(model, pairs)
    if answers.change(network) <= TOLERANCE:
        return Folded(network, pairs)
    done: dict[str, str] = {}
    for norm, layer in pairs.items():
        if answers.change(_with(model, done | {norm: layer})) <= TOLERANCE:
            done[norm] = layer
    return Folded(_with(model, done), done)


def _pairs(model: nn.Module) -> dict[str, str] | None:
    """Batch norms that only one layer feeds, each with that layer, which feeds nothing else."""
    graph = traced(model)
    if graph is None:
        return None
    layers = dict(model.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(layers[node.target] for node in calls)
    owners = Counter(
        id(weight) for layer in model.modules() for weight in layer._parameters.values()
    )
    taken = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found = {}
    for node in calls:
        before = node.args[0] if node.args else None
        if before not in calls or len(before.users) > 1:
            continue
        norm, layer = layers[node.target], layers[before.target]
        once = times[norm] == times[layer] == owners[id(getattr(layer, "weight", None))] == 1
        if once and before.target not in taken and _fits(norm, layer):
            found[node.target] = before.target
    return found


def _fits(norm: nn.Module, layer: nn.Module) -> bool:
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return False
    if isinstance(layer, nn.modules.conv._ConvNd):
        return not (layer.transposed and layer.groups > 1)  # torch folds those into other channels
    return isinstance(layer, nn.Linear)


@torch.no_grad()
def _with(model: nn.Module, pairs: Mapping[str, str]) -> nn.Module:
    """A copy of ``model`` with these norms folded."""
    network = deepcopy(model).eval()
    for name, path in pairs.items():
        norm, layer = network.get_submodule(name), network.get_submodule(path)
        scale = torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight
        shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
        moments = norm.running_mean.double(), norm.running_var.double(), norm.eps
        factors = scale.double(), shift.double()
        bias = None if layer.bias is None else layer.bias.double()
        if isinstance(layer, nn.Linear):
            parts = fuse_linear_bn_weights(layer.weight.double(), bias, *moments, *factors)
        else:
            parts = fuse_conv_bn_weights(
                layer.weight.double(), bias, *moments, *factors, layer.transposed
            )
        fold_away_(network, name, path)
        layer.weight.copy_(parts[0])
        layer.bias.copy_(parts[1])
    return network
