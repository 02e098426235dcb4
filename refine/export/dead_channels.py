"""Which channels of a masked network do nothing, and what is it without them?

Three rules propose channels; that the outputs stay what they are is measured, not believed.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from refine.channels.groups import ChannelGroup, Graph, torch_pruning, without
from refine.export.equality import Answers
from refine.sparsity.shrink import depthwise, smaller_
from refine.sparsity.topology import attached, traced

Trace = fx.Graph | None
BatchNorm = nn.modules.batchnorm._BatchNorm


class Alive(NamedTuple):
    """``network``: the smaller copy; ``removed``: how many channels it lost, by the layer that made
    them; ``note``: why none was looked for, if so."""

    network: nn.Module
    removed: dict[str, int]
    note: str = ""


def alive_only(model: nn.Module, example: Tensor) -> Alive:
    """A copy of ``model``, in evaluation mode, without the channels that do nothing.

    example: inputs that it takes, (N, ...). Every group keeps at least one channel. What would
    change the outputs, to the ``example`` or to random inputs, stays.
    """
    network = deepcopy(model).eval()
    removed: dict[str, int] = {}
    try:
        torch_pruning()
        groups = Graph(network, example).groups()
    except Exception as error:  # not installed, or a network that it cannot follow
        reason = " ".join(str(error).split())
        return Alive(network, removed, f"no dead channels were looked for: {reason:.160}")
    trace, answers = traced(network), Answers(model, example)
    refused: set[tuple[Rule, str]] = set()
    smaller = True
    while smaller:  # without a channel, another one may be read by nobody
        smaller = False
        for rule in RULES:
            asked = [group for group in groups if (rule, group.root) not in refused]
            proposed = {group.root: _proposed(rule, network, trace, group) for group in asked}
            proposed = {root: channels for root, channels in proposed.items() if channels}
            gone = _harmless(network, groups, proposed, answers)
            refused |= {(rule, root) for root in proposed if root not in gone}
            if gone:
                smaller_(network, without(network, groups, gone))
                groups, smaller = Graph(network, example).groups(), True
                for root, channels in gone.items():
                    removed[root] = removed.get(root, 0) + len(channels)
    return Alive(network, removed)


def _proposed(rule: "Rule", network: nn.Module, trace: Trace, group: ChannelGroup) -> list[int]:
    dead = rule(network, trace, group)
    if dead.all():
        dead[0] = False
    return dead.nonzero().flatten().tolist()


def _harmless(
    network: nn.Module,
    groups: Iterable[ChannelGroup],
    proposed: Mapping[str, list[int]],
    answers: Answers,
) -> dict[str, list[int]]:
    """The proposals without which the network answers the same: all, or those that pass one after
    the other."""

    def passes(gone: Mapping[str, list[int]]) -> bool:
        copy = deepcopy(network)
        smaller_(copy, without(copy, groups, gone))
        return answers.change(copy) <= answers.exact

    if not proposed or passes(proposed):
        return dict(proposed)
    kept: dict[str, list[int]] = {}
    for root, channels in proposed.items():
        if len(proposed) > 1 and passes(kept | {root: channels}):
            kept[root] = channels
    return kept


def silent(network: nn.Module, trace: Trace, group: ChannelGroup) -> Tensor:
    """Channels that are 0 whatever the input is."""
    return _constant(network, trace, group, lambda made: made == 0)


def never_positive(network: nn.Module, trace: Trace, group: ChannelGroup) -> Tensor:
    """Channels that are one number, at most 0, whatever the input is: nothing is left of them
    where a ReLU follows, which the comparison of outputs finds out."""
    return _constant(network, trace, group, lambda made: made <= 0)


def unread(network: nn.Module, trace: Trace, group: ChannelGroup) -> Tensor:
    """Channels for which every layer that reads them has only weights of 0."""
    dead = torch.full((group.width,), bool(group.readers) and not _mixed(network, group))
    for name in group.readers:
        layer = network.get_submodule(name)
        dimension = 1 - _made(layer)
        zero = _greatest(layer.weight, dimension) == 0
        dead &= _all(group, f"{name}.weight", dimension, zero)
    return dead


Rule = Callable[[nn.Module, Trace, ChannelGroup], Tensor]  # True where a channel is proposed
RULES: tuple[Rule, ...] = (silent, unread, never_positive)


def _constant(
    network: nn.Module,
    trace: Trace,
    group: ChannelGroup,
    wanted: Callable[[Tensor], Tensor],
) -> Tensor:
    """Channels that every layer makes as one number, a ``wanted`` one."""
    if _mixed(network, group):
        return torch.zeros(group.width, dtype=torch.bool)
    producers = {name: network.get_submodule(name) for name in group.producers}
    # A depthwise layer makes its input's channels anew: what came before it does not count.
    last = {name: layer for name, layer in producers.items() if _depthwise(layer)} or producers
    dead = torch.full((group.width,), bool(last))
    followed = set()
    for name, layer in producers.items():
        paths = {part.rpartition(".")[0] for part in attached(network, f"{name}.weight", trace)}
        norms = paths - {name}
        followed |= norms
        if name in last:
            made = _numbers(layer, [network.get_submodule(norm) for norm in norms])
            dead &= _all(group, f"{name}.weight", _made(layer), wanted(made))
    for name in set(group.norms) - followed:
        norm = network.get_submodule(name)
        if isinstance(norm, BatchNorm):
            dead &= _all(group, f"{name}.weight", 0, (norm.weight == 0) & (norm.bias == 0))
    return dead


def _numbers(layer: nn.Module, norms: list[nn.Module]) -> Tensor:
    """For each output of a layer, or of the batch norm that follows it, the number that it always
    is; NaN where it varies."""
    zero = _greatest(layer.weight, _made(layer)) == 0
    bias = torch.zeros(len(zero)) if layer.bias is None else layer.bias.detach()
    made = torch.where(zero, bias, torch.nan)
    for norm in norms:
        if norm.running_mean is None:  # it normalises by the batch
            return torch.full_like(made, torch.nan)
        scale = torch.ones_like(made) if norm.weight is None else norm.weight.detach()
        shift = torch.zeros_like(made) if norm.bias is None else norm.bias.detach()
        normal = (made - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        made = torch.where(scale == 0, shift, normal * scale + shift)
    return made


def _all(group: ChannelGroup, tensor: str, dimension: int, flags: Tensor) -> Tensor:
    """For each channel whether ``flags`` holds at all its indices in a tensor; no where it has
    none there."""
    found = torch.zeros(group.width, dtype=torch.bool)
    for member in group.members:
        if member.tensor == tensor and member.dimension == dimension:
            found[member.channels] = True
            found[member.channels[~flags[member.indices]]] = False
            return found
    return found


def _mixed(network: nn.Module, group: ChannelGroup) -> bool:
    """Whether something else than batch norms and PReLU works on the group's channels."""
    layers = dict(network.named_modules())
    return not all(isinstance(layers.get(n), BatchNorm | nn.PReLU) for n in group.norms)


def _greatest(weight: Tensor, dimension: int) -> Tensor:
    return weight.detach().abs().movedim(dimension, 0).flatten(1).amax(1)


def _made(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its outputs."""
    return int(getattr(layer, "transposed", False))


def _depthwise(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) > 1 and depthwise(layer)
