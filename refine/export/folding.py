"""Which batch norms can be folded into the layer before them, and what is the network then?

In evaluation mode a batch norm is a factor and an offset for each channel. The convolution or
linear layer before it can apply both, if no other layer feeds the norm and nothing else reads that
layer.
"""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from refine.export.equality import ReferenceOutputs
from refine.sparsity.topology import traced
from refine.stored.modules import (
    BatchNorm,
    Convolution,
    NormValues,
    batch_norm,
    values_of,
    weighted_layer,
)
from refine.stored.rebuild import remove_norms_

TOLERANCE = 1e-4  # of the outputs' scale; the folded weights are rounded once more


class Folded(NamedTuple):
    """``network``: the copy; ``norms``: those that were folded, each with the layer that does their
    work; ``note``: why there are none, if so."""

    network: nn.Module
    norms: dict[str, str]
    note: str = ""


def folded(model: nn.Module, example: Tensor) -> Folded:
    """A copy of ``model``, in evaluation mode, with its batch norms folded where that does not
    change the outputs. example: inputs of the network, (N, ...)."""
    candidates = _candidates(model)
    if candidates is None:
        return Folded(deepcopy(model).eval(), {}, "no norm is folded: torch.fx cannot follow it")
    reference = ReferenceOutputs(model, example)
    network = _with_folded(model, candidates)
    if reference.change(network) <= TOLERANCE:
        return Folded(network, candidates)
    accepted: dict[str, str] = {}
    for norm, layer in candidates.items():
        if reference.change(_with_folded(model, accepted | {norm: layer})) <= TOLERANCE:
            accepted[norm] = layer
    return Folded(_with_folded(model, accepted), accepted)


def _candidates(model: nn.Module) -> dict[str, str] | None:
    """Batch norms that one layer alone feeds, each with that layer, which feeds nothing else; None
    if torch.fx cannot follow the network."""
    graph = traced(model)
    if graph is None:
        return None
    layers = dict(model.named_modules(remove_duplicate=False))
    calls = {node: str(node.target) for node in graph.nodes if node.op == "call_module"}
    times = Counter(layers[name] for name in calls.values())
    owners = Counter(
        id(weight) for layer in model.modules() for weight in layer._parameters.values()
    )
    read_directly = {
        str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"
    }
    found = {}
    for node, name in calls.items():
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before not in calls or len(before.users) > 1:
            continue
        path = calls[before]
        norm, layer = layers[name], layers[path]
        once = times[norm] == times[layer] == owners[id(getattr(layer, "weight", None))] == 1
        if once and path not in read_directly and _can_fold(norm, layer):
            found[name] = path
    return found


def _can_fold(norm: nn.Module, layer: nn.Module) -> bool:
    if not isinstance(norm, BatchNorm) or values_of(norm) is None:
        return False
    if isinstance(layer, Convolution):
        return not (layer.transposed and layer.groups > 1)  # torch folds those into other channels
    return isinstance(layer, nn.Linear)


@torch.no_grad()
def _with_folded(model: nn.Module, pairs: Mapping[str, str]) -> nn.Module:
    """A copy of ``model``, in evaluation mode, with these norms folded into their layers."""
    network = deepcopy(model).eval()
    for name, path in pairs.items():
        values, layer = values_of(batch_norm(network, name)), weighted_layer(network, path)
        assert values is not None  # or it would not be a candidate
        weight, bias = _fused(layer, values)
        remove_norms_(network, {name: path})
        assert layer.bias is not None  # it has one since the norm is removed
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return network


def _fused(layer: Convolution | nn.Linear, values: NormValues) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that also does the work of a norm, in double precision."""
    moments = values.mean.double(), values.variance.double(), values.epsilon
    factors = values.scale.double(), values.shift.double()
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_weights(layer.weight.double(), bias, *moments, *factors)
    return fuse_conv_bn_weights(layer.weight.double(), bias, *moments, *factors, layer.transposed)
