"""Which channel groups can be taken out of a network, and does it compute the same without them?

torch-pruning follows gradients to find which channels go together, and so misses some of what a
network's code does with shapes. Every group is therefore tried once, on a copy with random weights:
the network's own could hide a mistake, as a norm whose scale is still 0 does.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from refine.channels.groups import OF_THE_NETWORK, ChannelGroup, Graph, without
from refine.sparsity.shrink import smaller_

TOLERANCE = 1e-3  # of the outputs' scale, in single precision; wrong columns make a third or more


def usable_groups(
    model: nn.Module, example: Tensor, protected: Iterable[str] = ()
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups that can be made narrower, and why the other layers cannot."""
    graph = Graph(model, example, protected)
    groups = graph.groups()
    refused = misfits(model, example, groups)
    return [group for group in groups if group.root not in refused], graph.left | refused


def misfits(model: nn.Module, example: Tensor, groups: Iterable[ChannelGroup]) -> dict[str, str]:
    """The groups, by root, whose channels cannot be taken out, each with the reason.

    A random third of a group's channels is taken out of a copy. Its outputs must be those of the
    network with these channels set to 0. A layer norm, which mixes channels, is replaced by its
    scale and shift for this.
    """
    found = {}
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, *example.shape[1:], generator=draw).to(example)
    drawn = _drawn(model, draw).eval()
    with torch.no_grad(), torch.random.fork_rng():
        trains_otherwise = _has_training_layers(drawn, inputs)
        for group in groups:
            if group.width < 2:
                continue
            gone = torch.randperm(group.width, generator=draw)[: max(1, group.width // 3)]
            network = _plain(drawn, group)
            wanted = pytree.tree_leaves(_silenced(network, group, gone, inputs))
            smaller = _plain(drawn, group)
            try:
                smaller_(smaller, without(smaller, [group], {group.root: gone.tolist()}))
                outputs = pytree.tree_leaves(smaller(inputs))
            except Exception as error:  # the network's own code, with widths it does not know
                reason = " ".join(str(error).split())
                found[group.root] = f"the network fails without some of its channels: {reason:.80}"
                continue
            if [_shape(leaf) for leaf in outputs] != [_shape(leaf) for leaf in wanted]:
                found[group.root] = OF_THE_NETWORK
            elif not all(map(_same, outputs, wanted)):
                found[group.root] = "what reads its channels cannot be followed"
            elif trains_otherwise:
                try:
                    smaller.train()(inputs)
                except Exception:  # the network's own code here too
                    found[group.root] = "what reads its channels in training cannot be followed"
    return found


class Affine(nn.Module):
    """Scale and shift of a layer norm, without its mixing."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


def _drawn(model: nn.Module, draw: torch.Generator) -> nn.Module:
    """A copy with random weights and buffers."""
    copy = deepcopy(model)
    with torch.no_grad():
        for name, tensor in (*copy.named_parameters(), *copy.named_buffers()):
            if not tensor.is_floating_point() or not tensor.dim():
                continue
            if tensor.dim() > 1:
                numbers = torch.randn(tensor.shape, generator=draw) / tensor[0].numel() ** 0.5
            elif name.endswith(("bias", "mean")):
                numbers = 0.3 * torch.randn(tensor.shape, generator=draw)
            else:
                numbers = 0.5 + torch.rand(tensor.shape, generator=draw)
            tensor.copy_(numbers)
    return copy


def _plain(network: nn.Module, group: ChannelGroup) -> nn.Module:
    """A copy in which no norm mixes the group's channels."""
    copy = deepcopy(network)
    layers = dict(copy.named_modules())
    for name in group.norms:
        if isinstance(layers.get(name), nn.LayerNorm):
            copy.set_submodule(name, Affine(layers[name]))
    return copy.eval()


def _has_training_layers(network: nn.Module, inputs: Tensor) -> bool:
    """Whether some layers with weights are used in training only, and a training pass works."""
    layers = {
        module
        for module in network.modules()
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
    }
    handles = [
        layer.register_forward_hook(lambda layer, given, made: layers.discard(layer))
        for layer in list(layers)
    ]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not layers:
        return False
    try:
        deepcopy(network).train()(inputs)
    except Exception:  # in training it needs something else, such as targets
        return False
    return True


def _silenced(network: nn.Module, group: ChannelGroup, gone: Tensor, inputs: Tensor) -> Any:
    """The outputs with the channels ``gone`` of a group set to 0 wherever a layer makes them."""
    layers, handles = dict(network.named_modules()), []
    for name in dict.fromkeys((*group.producers, *group.norms)):
        indices = _outputs(group, name, layers.get(name), gone)
        if name not in layers:  # a parameter of the network's own
            network.get_parameter(name).index_fill_(*indices, 0.0)
            continue
        last = isinstance(layers[name], nn.Linear | Affine)

        def silence(
            layer: nn.Module, given: tuple, made: Tensor, axis=-1 if last else 1, own=indices[1]
        ) -> Tensor:
            return made.index_fill(axis, own.to(made.device), 0.0)

        handles.append(layers[name].register_forward_hook(silence))
    try:
        return network(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _outputs(
    group: ChannelGroup, name: str, layer: nn.Module | None, gone: Tensor
) -> tuple[int, Tensor]:
    """The dimension, and the indices of the channels ``gone``, in the layer's outputs or in a
    parameter."""
    made = int(getattr(layer, "transposed", False))
    for member in group.members:
        if layer is None and member.tensor == name:
            return member.dimension, member.indices[torch.isin(member.channels, gone)]
        owner = member.tensor.rpartition(".")[0]
        weight = member.tensor.endswith("weight") and member.dimension == made
        if owner == name and (weight or not member.tensor.endswith("weight")):
            return member.dimension, member.indices[torch.isin(member.channels, gone)]
    raise AssertionError(name)


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


def _same(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, Tensor) or not wanted.is_floating_point():
        return True
    scale = float(wanted.abs().max().clamp(min=1e-12))
    return float((found - wanted).abs().max()) <= TOLERANCE * scale
