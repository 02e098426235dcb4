"""Which channels of a masked network do nothing, and what is it without them?

Three rules propose channels. A proposal is accepted only if the outputs, measured without these
channels, stay the same.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from refine.channels.groups import ChannelGroup, Graph, torch_pruning, without
from refine.export.equality import ReferenceOutputs
from refine.sparsity.shrink import depthwise, smaller_
from refine.sparsity.topology import attached, traced
from refine.stored.modules import BatchNorm, Convolution, batch_norm, values_of, weighted_layer

Trace = fx.Graph | None


class WithoutDead(NamedTuple):
    """``network``: the smaller copy; ``removed``: how many channels it lost, by the layer whose
    outputs they were; ``note``: why the search was not possible, if so."""

    network: nn.Module
    removed: dict[str, int]
    note: str = ""


def without_dead_channels(model: nn.Module, example: Tensor) -> WithoutDead:
    """A copy of ``model``, in evaluation mode, without the channels that do nothing.

    example: inputs of the network, (N, ...). Every group keeps at least one channel. A channel
    stays if the outputs for the ``example`` or for random inputs would change without it.
    """
    network = deepcopy(model).eval()
    removed: dict[str, int] = {}
    try:
        torch_pruning()
        groups = Graph(network, example).groups()
    except Exception as error:  # not installed, or a network that it cannot follow
        reason = " ".join(str(error).split())
        return WithoutDead(network, removed, f"no dead channels were looked for: {reason:.160}")
    trace, reference = traced(network), ReferenceOutputs(model, example)
    refused: set[tuple[Rule, str]] = set()
    smaller = True
    while smaller:  # once a channel is gone, nothing may read another one
        smaller = False
        for rule in RULES:
            untried = [group for group in groups if (rule, group.root) not in refused]
            proposed = {group.root: _proposed(rule, network, trace, group) for group in untried}
            proposed = {root: channels for root, channels in proposed.items() if channels}
            gone = _harmless(network, groups, proposed, reference)
            refused |= {(rule, root) for root in proposed if root not in gone}
            if gone:
                smaller_(network, without(network, groups, gone))
                groups, smaller = Graph(network, example).groups(), True
                for root, channels in gone.items():
                    removed[root] = removed.get(root, 0) + len(channels)
    return WithoutDead(network, removed)


def _proposed(rule: "Rule", network: nn.Module, trace: Trace, group: ChannelGroup) -> list[int]:
    dead = rule(network, trace, group)
    if dead.all():
        dead[0] = False
    return dead.nonzero().flatten().tolist()


def _harmless(
    network: nn.Module,
    groups: Iterable[ChannelGroup],
    proposed: Mapping[str, list[int]],
    reference: ReferenceOutputs,
) -> dict[str, list[int]]:
    """The proposals without which the outputs stay the same: all of them, or those that pass when
    they are tried one after the other."""

    def passes(gone: Mapping[str, list[int]]) -> bool:
        copy = deepcopy(network)
        smaller_(copy, without(copy, groups, gone))
        return reference.change(copy) <= reference.exact

    if not proposed or passes(proposed):
        return dict(proposed)
    accepted: dict[str, list[int]] = {}
    for root, channels in proposed.items():
        if len(proposed) > 1 and passes(accepted | {root: channels}):
            accepted[root] = channels
    return accepted


def silent(network: nn.Module, trace: Trace, group: ChannelGroup) -> Tensor:
    """Channels that are 0 for every input."""
    return _constant(network, trace, group, lambda value: value == 0)


def never_positive(network: nn.Module, trace: Trace, group: ChannelGroup) -> Tensor:
    """Channels that have one value, at most 0, for every input. A ReLU makes them 0; whether one
    follows, the comparison of outputs finds out."""
    return _constant(network, trace, group, lambda value: value <= 0)


def unread(network: nn.Module, trace: Trace, group: ChannelGroup) -> Tensor:
    """Channels for which every layer that reads them has only weights of 0."""
    dead = torch.full((group.width,), bool(group.readers) and not _other_layers(network, group))
    for name in group.readers:
        layer = weighted_layer(network, name)
        dimension = 1 - _output_dimension(layer)
        zero = _largest(layer.weight, dimension) == 0
        dead &= _everywhere(group, f"{name}.weight", dimension, zero)
    return dead


Rule = Callable[[nn.Module, Trace, ChannelGroup], Tensor]  # True where a channel is proposed
RULES: tuple[Rule, ...] = (silent, unread, never_positive)


def _constant(
    network: nn.Module,
    trace: Trace,
    group: ChannelGroup,
    wanted: Callable[[Tensor], Tensor],
) -> Tensor:
    """Channels for which every layer that makes them gives one value, and a ``wanted`` one."""
    if _other_layers(network, group):
        return torch.zeros(group.width, dtype=torch.bool)
    producers = {name: weighted_layer(network, name) for name in group.producers}
    # A depthwise layer makes the channels anew: the layers before it do not count.
    last = {name: layer for name, layer in producers.items() if _is_depthwise(layer)} or producers
    dead = torch.full((group.width,), bool(last))
    followed = set()
    for name, layer in producers.items():
        paths = {part.rpartition(".")[0] for part in attached(network, f"{name}.weight", trace)}
        norms = paths - {name}
        followed |= norms
        if name in last:
            values = _constant_outputs(layer, [batch_norm(network, norm) for norm in norms])
            dimension = _output_dimension(layer)
            dead &= _everywhere(group, f"{name}.weight", dimension, wanted(values))
    for name in set(group.norms) - followed:
        norm = network.get_submodule(name)
        if isinstance(norm, BatchNorm):
            dead &= _everywhere(group, f"{name}.weight", 0, (norm.weight == 0) & (norm.bias == 0))
    return dead


def _constant_outputs(layer: Convolution | nn.Linear, norms: list[BatchNorm]) -> Tensor:
    """For each output of a layer, or of the batch norm after it, the value that it has for every
    input; NaN where it varies."""
    zero = _largest(layer.weight, _output_dimension(layer)) == 0
    bias = torch.zeros(len(zero)) if layer.bias is None else layer.bias.detach()
    made = torch.where(zero, bias, torch.nan)
    for norm in norms:
        values = values_of(norm)
        if values is None:
            return torch.full_like(made, torch.nan)
        normal = (made - values.mean) / (values.variance + values.epsilon).sqrt()
        scaled = normal * values.scale + values.shift
        made = torch.where(values.scale == 0, values.shift, scaled)
    return made


def _everywhere(group: ChannelGroup, tensor: str, dimension: int, flags: Tensor) -> Tensor:
    """For each channel whether ``flags`` holds at all its indices along a tensor's dimension; False
    for a channel that has no index there."""
    found = torch.zeros(group.width, dtype=torch.bool)
    for member in group.members:
        if member.tensor == tensor and member.dimension == dimension:
            found[member.channels] = True
            found[member.channels[~flags[member.indices]]] = False
            return found
    return found


def _other_layers(network: nn.Module, group: ChannelGroup) -> bool:
    """Whether layers other than batch norms and PReLU normalise the group's channels."""
    layers = dict(network.named_modules())
    return not all(isinstance(layers.get(n), BatchNorm | nn.PReLU) for n in group.norms)


def _largest(weight: Tensor, dimension: int) -> Tensor:
    """The largest absolute weight at each index along a dimension."""
    return weight.detach().abs().movedim(dimension, 0).flatten(1).amax(1)


def _output_dimension(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its outputs."""
    return int(getattr(layer, "transposed", False))


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, Convolution) and layer.groups > 1 and depthwise(layer)
