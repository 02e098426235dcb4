"""Does taking channels out change what the rest of a network computes?

Which channels go together is found out by following gradients through the network, which does not
see everything that its code does with shapes. So every group is tried once.
"""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn

from refine.evaluation.accuracy import in_mode
from refine.pruning.channel_groups import ChannelGroup, without
from refine.shrinking import smaller_

TOLERANCE = 1e-3  # of the outputs' scale, single precision; wrong columns make a third or more


def misfits(model: nn.Module, example: Tensor, groups: Iterable[ChannelGroup]) -> dict[str, str]:
    """The groups, by root, of which channels cannot be taken out, each with the reason.

    A third of a group's channels, by lot, is taken out of a copy. It must answer as the network
    does when these channels are 0. Where a layer norm mixes a group's channels they cannot be
    equal; there it only has to answer.
    """
    found = {}
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, *example.shape[1:], generator=draw).to(example)
    with in_mode(model, training=False), torch.no_grad():
        for group in groups:
            if group.width < 2:
                continue
            chosen = torch.randperm(group.width, generator=draw)[: max(1, group.width // 3)]
            copy = deepcopy(model)
            try:
                smaller_(copy, without(copy, [group], {group.root: chosen.tolist()}))
                answer = copy(inputs)
            except Exception as error:  # the network's own code, with widths it does not know
                reason = " ".join(str(error).split())
                found[group.root] = f"the network fails without some of its channels: {reason:.80}"
                continue
            if mixes(model, group):
                continue
            wanted = _silenced(model, group, chosen, inputs)
            scale = float(wanted.abs().max().clamp(min=1e-12))
            if not float((answer - wanted).abs().max()) <= TOLERANCE * scale:
                found[group.root] = "what reads its channels cannot be followed"
    return found


def mixes(model: nn.Module, group: ChannelGroup) -> bool:
    """Whether a norm, or a parameter that is added, mixes a group's channels."""
    norms = [
        model.get_submodule(name) for name in group.norms if name in dict(model.named_modules())
    ]
    bare = len(norms) < len(group.norms)
    return bare or any(isinstance(norm, nn.LayerNorm) for norm in norms)


def _silenced(model: nn.Module, group: ChannelGroup, channels: Tensor, inputs: Tensor) -> Tensor:
    """The outputs with these channels of a group set to 0 wherever a layer makes them."""

    def silence(layer: nn.Module, given: tuple, made: Tensor) -> Tensor:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        return made.index_fill(axis, channels.to(made.device), 0.0)

    handles = [
        model.get_submodule(name).register_forward_hook(silence)
        for name in (*group.producers, *group.norms)
    ]
    try:
        return model(inputs)
    finally:
        for handle in handles:
            handle.remove()
