"""Which channel groups can be taken out of a network, and does it compute the same without them?

torch-pruning follows gradients to find which channels go together, and so misses some of what a
network's code does with shapes. Every group is therefore tried once, on a copy with random weights.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from refine.channels.groups import OF_THE_NETWORK, ChannelGroup, Graph, without
from refine.channels.library import said
from refine.channels.probe import LAYERS, OUTPUTS, Affine, Probe, Seen
from refine.channels.progress import Progress

VISIBLE = 100  # times what rounding may change, at least, to count as an effect
DRAWS = 3  # of a group's channels, until their effect is visible


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

    A random third of a group's channels is taken out of a copy. Then every layer, and the network,
    must compute what they do with these channels set to 0. They and each layer that reads these
    channels must compute something else than with them: otherwise nothing was seen. A layer norm,
    which mixes channels, is replaced by its scale and shift for this.
    """
    draw, found, groups = torch.Generator().manual_seed(0), {}, list(groups)
    progress = Progress("finding out which channels can be taken out")
    with torch.no_grad(), torch.random.fork_rng():
        probe = Probe(model, example)
        dense = probe.seen()
        trains = _has_training_layers(probe, dense)
        for number, group in enumerate(groups):
            progress.at(number / len(groups))
            if group.width > 1 and (reason := _misfit(probe, group, dense, draw, trains)):
                found[group.root] = reason
    return found


def _misfit(
    probe: Probe, group: ChannelGroup, dense: Seen, draw: torch.Generator, trains: bool
) -> str | None:
    """Why a group's channels cannot be taken out, if so. ``dense``: what was seen of the network as
    it is; ``trains``: some of its layers are only used in training."""
    layers = dict(probe.network.named_modules())
    norms = [name for name in group.norms if isinstance(layers.get(name), nn.LayerNorm)]
    for name in norms:
        if name not in probe.norms:
            return f"along which of its axes {name} works is not known"
    reason = None
    with probe.plain(norms):
        try:
            dense = probe.seen() if norms else dense
            for _ in range(DRAWS):
                gone = torch.randperm(group.width, generator=draw)[: max(1, group.width // 3)]
                with _silenced(probe.network, group, gone):
                    wanted = probe.seen()
                unseen = _unseen(group, dense, wanted)
                wanted = _survivors(group, gone, probe.network, wanted)
                smaller = without(probe.network, [group], {group.root: gone.tolist()})
                with probe.without(smaller):
                    reason = _difference(wanted, probe.seen())
                    if trains and not (reason or unseen):
                        reason = _in_training(probe)
                if reason or not unseen:
                    return reason
        except Exception as error:  # the network's own code, with widths it does not know
            return f"the network fails without some of its channels: {said(error)}"
    return unseen


def _in_training(probe: Probe) -> str | None:
    try:
        deepcopy(probe.network).train()(probe.inputs)
    except Exception:  # the network's own code here too
        return "what reads its channels in training cannot be followed"
    return None


def _difference(wanted: Seen, found: Seen) -> str | None:
    """Where a network without channels computes something else than one where they are 0."""
    if [x.shape for x in found[OUTPUTS]] != [x.shape for x in wanted[OUTPUTS]]:
        return OF_THE_NETWORK
    for name, calls in wanted.items():
        others = found.get(name, [])
        same = [x.shape for x in others] == [x.shape for x in calls]
        if same and all(_apart(x, y) <= 1 for x, y in zip(calls, others, strict=True)):
            continue
        if name == OUTPUTS:
            return "what reads its channels cannot be followed"
        return f"what {name} reads cannot be followed to single channels"
    return None


def _unseen(group: ChannelGroup, dense: Seen, wanted: Seen) -> str | None:
    """Where the check would not notice a mistake: setting the channels to 0 changes nothing."""
    for name in (*group.readers, OUTPUTS):
        pairs = zip(dense.get(name, []), wanted.get(name, []), strict=True)
        if not any(_apart(x, y) >= VISIBLE for x, y in pairs):
            where = f"on {name}" if name else "on the network's outputs"
            return f"its effect {where} is too small to be checked"
    return None


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, in multiples of what rounding may change: half of the digits. It uses
    up two or three."""
    if not one.is_floating_point():
        return 0.0
    scale = torch.maximum(one.abs().max(), other.abs().max()).clamp(min=1e-30)
    return float((one - other).abs().max() / scale / torch.finfo(one.dtype).eps ** 0.5)


@contextmanager
def _silenced(network: nn.Module, group: ChannelGroup, gone: Tensor) -> Iterator[None]:
    """Inside, the channels ``gone`` of a group are 0 wherever a layer makes them."""
    layers, handles, parameters = dict(network.named_modules()), [], []

    def silence(axis: int, own: Tensor) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        return lambda layer, given, made: made.index_fill(axis, own.to(made.device), 0.0)

    for name in dict.fromkeys((*group.producers, *group.norms)):
        dimension, own = _outputs(group, name, layers.get(name), gone)
        if name in layers:
            axis = _axis(layers[name])
            handles.append(layers[name].register_forward_hook(silence(axis, own)))
        else:  # a parameter of the network's own
            parameter = network.get_parameter(name)
            parameters.append((parameter, parameter.data))
            parameter.data = parameter.data.index_fill(dimension, own, 0.0)
    try:
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for handle in handles:
            handle.remove()


def _survivors(group: ChannelGroup, gone: Tensor, network: nn.Module, seen: Seen) -> Seen:
    """What was seen, without the channels ``gone`` of the layers that make them."""
    seen = dict(seen)
    for name in set(group.producers).intersection(seen):
        layer = network.get_submodule(name)
        axis, own = _axis(layer), _outputs(group, name, layer, gone)[1]
        width = seen[name][0].shape[axis]
        stays = torch.tensor(sorted(set(range(width)) - set(own.tolist())))
        seen[name] = [made.index_select(axis, stays.to(made.device)) for made in seen[name]]
    return seen


def _axis(layer: nn.Module) -> int:
    """Which axis of a layer's outputs has its channels."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return -1 - len(layer.kernel_size)
    return layer.axis if isinstance(layer, Affine) else -1 if isinstance(layer, nn.Linear) else 1


def _outputs(
    group: ChannelGroup, name: str, layer: nn.Module | None, gone: Tensor
) -> tuple[int, Tensor]:
    """The dimension, and the indices of the channels ``gone``, in the layer's outputs or in a
    parameter."""
    made, found = int(getattr(layer, "transposed", False)), dict[str, tuple[int, list[Tensor]]]()
    for member in group.members:
        owner = member.tensor.rpartition(".")[0]
        weight = member.tensor.endswith("weight") and member.dimension == made
        own = owner == name and (weight or not member.tensor.endswith("weight"))
        if member.tensor == name if layer is None else own:
            indices = member.indices[torch.isin(member.channels, gone)]
            found.setdefault(member.tensor, (member.dimension, []))[1].append(indices)
    dimension, parts = next(iter(found.values()))
    return dimension, torch.cat(parts)


def _has_training_layers(probe: Probe, dense: Seen) -> bool:
    """Whether some layers with weights are used in training only, and a training pass works."""
    names = {name for name, m in probe.network.named_modules() if isinstance(m, LAYERS) and name}
    if names <= set(dense):
        return False
    return _in_training(probe) is None  # or it needs something else then, such as targets
