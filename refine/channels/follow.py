"""Which indices of which layers go with a layer's channels?

A walk through torch-pruning's graph, as the library's own but with arrays of indices, and with
bounds: the library goes on for ever where indices multiply on a way round, as in an einsum.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from refine.channels.flattened import ChannelsLast
from refine.channels.pieces import Equal

Indices = tuple[np.ndarray, np.ndarray]  # of a layer, and the channel that each belongs to
NONE = -1  # of an index that belongs to no single channel
# Of one walk: how often the same side of a layer may be met with other indices, and all indices.
# Networks that are followed meet each a few times; VGG-11 with 25,088 columns has 200,000 indices.
TIMES, INDICES = 50, 5_000_000


class Unfollowed(ValueError):
    """A group whose indices are not known; the message says where the walk ended."""


def follow(graph: Any, layer: nn.Module, channels: Iterable[int]) -> Any:
    """torch-pruning's group of a layer's output ``channels``. Those that only go together, at the
    same place of all pieces of a chunk, count as one channel. Unfollowed where the walk meets an
    operation that is not understood, or more indices than there can be."""
    from torch_pruning.dependency import Group

    own = np.fromiter(channels, np.int64)
    walk = _walk(graph, layer, own, own)
    first = own.copy()  # of the channels that go together
    for _, (index, channel) in walk[0]:
        met = np.searchsorted(own, index)
        np.minimum.at(first, met, channel)
    units = len(np.unique(first))
    pieces = len(own) // units
    if pieces > 1 and np.array_equal(first, own % units):
        walk = _walk(graph, layer, own, first)
    else:
        pieces = 1
    group = Group()
    group._DG = graph
    for entries in walk:
        whole = _merged([indices for _, indices in entries])
        for index, channel in _pieces(whole, units, pieces):
            group.add_dep(entries[0][0], index.tolist())
            group[-1].root_idxs = [None if c == NONE else c for c in channel.tolist()]
    return group


def _walk(
    graph: Any, layer: nn.Module, own: np.ndarray, channel: np.ndarray
) -> list[list[tuple[Any, Indices]]]:
    """What is met from the output indices ``own`` of a layer: for each operation or layer, and each
    of its sides, the dependencies and indices by which it was reached."""
    from torch_pruning.dependency import Dependency

    node, start = graph.module2node[layer], _start(graph, layer)
    root = Dependency(start, start, source=node, target=node)
    found: dict[Any, list[tuple[Any, Indices]]] = {(node, start): [(root, (own, channel))]}
    seen, stack, count = set(), [(root, (own, channel))], 0
    while stack:
        dependency, indices = stack.pop()
        seen.add(dependency.target)
        for further in dependency.target.dependencies:
            if not further.is_triggered_by(dependency.handler):
                continue
            there = indices
            for mapping in further.index_mapping:
                there = there if mapping is None else _mapped(mapping, there)
            if not len(there[0]):
                continue
            known = found.setdefault((further.target, further.handler), [])
            if further.target in seen and any(_equal(there, old) for _, old in known):
                continue
            count += len(there[0])
            _check(graph, further, there[0], len(known) > TIMES or count > INDICES)
            known.append((further, there))
            stack.append((further, there))
    return list(found.values())


def _pieces(whole: Indices, units: int, pieces: int) -> list[Indices]:
    """Indices in several parts with one index for each channel, if there are as many as pieces:
    torch-pruning's criteria need that of a group's first layer."""
    index, channel = whole
    if pieces == 1 or len(index) != units * pieces:
        return [whole]
    parts = channel.argsort(kind="stable").reshape(units, pieces).T
    return [(index[part], channel[part]) for part in parts]


def together(groups: Iterable[Any]) -> Any:
    """One group of torch-pruning of the indices of several, which are all of the same network: to
    be pruned at once, as indices change with each."""
    from torch_pruning.dependency import Group

    whole, items = Group(), dict[Any, tuple[Any, list[int]]]()
    for group in groups:
        whole._DG = group._DG
        for dependency, index in group:
            key = dependency.target, dependency.handler
            items.setdefault(key, (dependency, []))[1].extend(index)
    for dependency, index in items.values():
        whole.add_dep(dependency, index)
    return whole


def _start(graph: Any, layer: nn.Module) -> Any:
    from torch_pruning.pruner import function

    if getattr(layer, "groups", 1) == getattr(layer, "out_channels", 0) > 1:
        return function.prune_depthwise_conv_out_channels
    return graph.get_pruner_of_module(layer).prune_out_channels


def _check(graph: Any, dependency: Any, index: np.ndarray, endless: bool) -> None:
    """Unfollowed if indices cannot be those of the dependency's target."""
    node = dependency.target
    outgoing = graph.is_out_channel_pruning_fn(dependency.handler)
    width = (graph.get_out_channels if outgoing else graph.get_in_channels)(node)
    limit = graph.widest if width is None else width
    if node in graph.opaque or len(index) > graph.widest or index.max() >= limit or endless:
        name = graph._param_to_name.get(node.module) or graph._module2name.get(node.module)
        raise Unfollowed(
            f"what {name} reads cannot be followed to single channels"
            if name
            else f"what reads its channels cannot be followed ({_named(node)})"
        )


def _named(node: Any) -> str:
    operation = getattr(node.grad_fn, "name", lambda: "an unknown operation")()
    return operation.removesuffix("0").removesuffix("Backward")


def _mapped(mapping: Any, indices: Indices) -> Indices:
    """``mapping``, one of the library's, of indices."""
    index, channel = indices
    kind = type(mapping).__name__
    if isinstance(mapping, Equal):
        return mapping(index, channel)
    if isinstance(mapping, ChannelsLast):
        return mapping(index), channel
    if kind in ("_ConcatIndexMapping", "_SplitIndexMapping"):
        first, last = mapping.offset
        if mapping.reverse == (kind == "_SplitIndexMapping"):
            return index + first, channel
        inside = (index >= first) & (index < last)
        return index[inside] - first, channel[inside]
    if kind == "_FlattenIndexMapping" and not mapping.reverse:
        places = index[:, None] * mapping._stride + np.arange(mapping._stride)
        return places.flatten(), channel.repeat(mapping._stride)
    from torch_pruning._helpers import _HybridIndex as Index

    pairs = mapping([Index(*pair) for pair in zip(index.tolist(), channel.tolist(), strict=True)])
    roots = [NONE if pair.root_idx is None else pair.root_idx for pair in pairs]
    return np.array([pair.idx for pair in pairs], np.int64), np.array(roots, np.int64)


def _merged(parts: list[Indices]) -> Indices:
    """Every index once, where it came first."""
    if len(parts) == 1:
        return parts[0]
    index, channel = (np.concatenate(side) for side in zip(*parts, strict=True))
    first = np.sort(np.unique(index, return_index=True)[1])
    return index[first], channel[first]


def _equal(one: Indices, other: Indices) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
