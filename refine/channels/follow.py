"""Which indices of which layers go with a layer's channels?

A walk through torch-pruning's graph, as the library's own but with arrays of indices, and with
bounds: the library goes on for ever where indices multiply on a way round, as in an einsum.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from refine.channels.flattened import ChannelsLast

Indices = tuple[np.ndarray, np.ndarray]  # of a layer, and the channel that each belongs to
NONE = -1  # of an index that belongs to no single channel
STEPS = 20_000  # of one walk; the longest seen takes 1,500


class Unfollowed(ValueError):
    """A group whose indices are not known; the message says where the walk ended."""


def follow(graph: Any, layer: nn.Module, channels: Iterable[int]) -> Any:
    """torch-pruning's group of a layer's output ``channels``. Unfollowed where the walk meets an
    operation that is not understood, or more indices than there can be."""
    from torch_pruning.dependency import Dependency, Group

    node = graph.module2node[layer]
    start = _start(graph, layer)
    own = np.fromiter(channels, np.int64)
    root = Dependency(start, start, source=node, target=node)
    found: dict[Any, list[tuple[Any, Indices]]] = {(node, start): [(root, (own, own))]}
    seen, stack, steps = set(), [(root, (own, own))], 0
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
            steps += 1
            _check(graph, further, there[0], steps)
            known.append((further, there))
            stack.append((further, there))
    group = Group()
    group._DG = graph
    for number, entries in enumerate(found.values()):
        index, channel = _merged([indices for _, indices in entries])
        group.add_dep(entries[0][0], index.tolist())
        group[number].root_idxs = [None if c == NONE else c for c in channel.tolist()]
    return group


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


def _check(graph: Any, dependency: Any, index: np.ndarray, steps: int) -> None:
    """Unfollowed if indices cannot be those of the dependency's target."""
    node = dependency.target
    outgoing = graph.is_out_channel_pruning_fn(dependency.handler)
    width = (graph.get_out_channels if outgoing else graph.get_in_channels)(node)
    limit = graph.widest if width is None else width
    if node in graph.opaque or len(index) > graph.widest or index.max() >= limit or steps > STEPS:
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
