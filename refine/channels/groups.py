"""Which channels of a network go together?

The library torch-pruning (DepGraph, Fang et al. 2023, arXiv:2301.12900) finds it out from a pass
through the network.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refine.channels.follow import Unfollowed, follow, together
from refine.channels.library import dependencies, said, torch_pruning, update_
from refine.sparsity.shrink import Smaller, depthwise, each_tensor
from refine.sparsity.topology import output_tensors, traced

ROOTS = (nn.modules.conv._ConvNd, nn.Linear)
OF_THE_NETWORK = "its outputs are the network's"
WRAPPERS = (
    "OptimizedModule",
    "DistributedDataParallel",
    "DataParallel",
    "FullyShardedDataParallel",
)


@dataclass(frozen=True)
class Member:
    """Which indices along one dimension of a tensor belong to a group's channels: ``indices[i]``
    belongs to channel ``channels[i]``."""

    tensor: str
    dimension: int
    indices: Tensor
    channels: Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share. ``root``: the first layer whose outputs they are;
    ``width``: how many; ``producers``, ``norms``, ``readers``: layers that make them, normalise
    them, and have them as inputs."""

    root: str
    width: int
    members: tuple[Member, ...]
    producers: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


class Graph:
    """The channels of ``model``, as torch-pruning sees them.

    example: inputs that the network takes, (N, ...). protected: names of layers or tensors whose
        outputs stay as they are; the network's own outputs always do.

    ``left``: layers that have no group, each with the reason. ValueError if torch-pruning is not
    installed, or the network is wrapped.
    """

    def __init__(self, model: nn.Module, example: Tensor, protected: Iterable[str] = ()):
        check_bare(model)
        self.model = model
        torch_pruning()
        layers = dict(model.named_modules())
        graph = traced(model)
        # Without a trace refine/channels/verify.py finds them: without a channel they are fewer.
        given = output_tensors(model, graph=graph) if graph else set()
        stay = {*protected, *given}
        self._stay = [
            layers[name]
            for name in layers
            if name in stay or f"{name}.weight".removeprefix(".") in stay
        ]
        self.left = dict.fromkeys(sorted(given), OF_THE_NETWORK)
        self._names = {module: name for name, module in layers.items()}
        owners = [id(tensor) for _, tensor, _ in each_tensor(model)]
        self._shared = {tensor for tensor in owners if owners.count(tensor) > 1}
        self._graph, self._changed = dependencies(model, example), False

    def library_groups(self, roots: Collection[str] | None = None) -> dict[str, Any]:
        """torch-pruning's own groups as the network is now, by root layer: all, or only those of
        ``roots``."""
        found, done = dict[str, Any](), set[nn.Module]()
        self._update_()
        for layer in list(self._graph.module2node):
            if layer in done or layer in self._stay or not isinstance(layer, ROOTS):
                continue
            name = self._names[layer]
            if roots is not None and name not in roots:
                continue
            try:
                channels = self._graph.get_out_channels(layer)
                group = follow(self._graph, layer, range(channels))
            except Exception as error:  # the library's own too
                fails = f"torch-pruning fails on what reads its channels: {said(error)}"
                self.left[name] = str(error) if isinstance(error, Unfollowed) else fails
                continue
            makers = [
                dependency.target.module
                for dependency, _ in group
                if self._graph.is_out_channel_pruning_fn(dependency.handler)
            ]
            done.update(makers)
            if not set(makers).intersection(self._stay):
                found[name] = group
        self._widths = {root: len(group[0].idxs) for root, group in found.items()}
        self._met = {dependency.target for group in found.values() for dependency, _ in group}
        return found

    def groups(self) -> list[ChannelGroup]:
        """The groups that can be made narrower."""
        found = []
        for root, group in self.library_groups().items():
            try:
                found.append(self._described(root, group))
            except ValueError as reason:
                self.left[root] = str(reason)
        return found

    def prune(self, gone: Mapping[str, Iterable[int]]) -> None:
        """Takes channels out of the network, by the root of their group."""
        self._update_()
        groups = [
            follow(self._graph, self.model.get_submodule(root), self._indices(root, channels))
            for root, channels in gone.items()
        ]
        together(groups).prune(record_history=False)
        self._changed = True

    def _indices(self, root: str, channels: Iterable[int]) -> list[int]:
        """The root layer's outputs that are ``channels``: several each if it makes pieces."""
        width, made = (
            self._widths[root],
            self._graph.get_out_channels(self.model.get_submodule(root)),
        )
        return sorted(index for channel in channels for index in range(channel, made, width))

    def _update_(self) -> None:
        if self._changed:
            update_(self._graph, self._met)
        self._changed = False

    def _described(self, root: str, group: Any) -> ChannelGroup:
        members: list[Member] = []
        producers, norms, readers = list[str](), list[str](), list[str]()
        for number, (dependency, indices) in enumerate(group):
            layer, handler = dependency.target.module, dependency.handler
            outgoing = self._graph.is_out_channel_pruning_fn(handler)
            channels = group[number].root_idxs
            parts: dict[str, int] | None
            if isinstance(layer, nn.Parameter):
                name = self._graph._param_to_name[layer]
                parts = {name: dependency.target.pruning_dim % layer.dim()}
            else:
                name = self._names.get(layer)
                parts = _parts(layer, outgoing)
                if name is not None and parts:
                    parts = {f"{name}.{own}" if name else own: d for own, d in parts.items()}
            if parts is None:
                raise ValueError(f"{name} is of a kind that cannot be made narrower here")
            if not parts:
                continue
            if any(channel is None for channel in channels):
                raise ValueError(f"what {name} reads cannot be followed to single channels")
            if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
                own = list(layer.parameters(recurse=False))
                if not all(parameter.requires_grad for parameter in own):
                    raise ValueError(f"{name} is frozen")
                if self._shared.intersection(map(id, own)):
                    raise ValueError(f"{name} shares its weights with another layer")
                (producers if outgoing else readers).append(name)
            else:
                norms.append(name)
            for tensor, dimension in parts.items():
                members.append(
                    Member(tensor, dimension, torch.tensor(indices), torch.tensor(channels))
                )
        width = len(group[0].idxs)
        return ChannelGroup(
            root, width, tuple(members), tuple(producers), tuple(norms), tuple(readers)
        )


def _parts(layer: nn.Module, outgoing: bool) -> dict[str, int] | None:
    """Which dimension of each of a layer's tensors belongs to its outputs (``outgoing``) or to its
    inputs; None for layers of unknown types."""
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1:
            if not depthwise(layer) or layer.out_channels != layer.groups:
                return None
            outgoing = True
        dimension = int(not outgoing)
        if getattr(layer, "transposed", False):
            dimension = 1 - dimension
        parts = {"weight": dimension}
        if outgoing and layer.bias is not None:
            parts["bias"] = 0
        return parts
    if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.PReLU):
        if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) != 1:
            return None
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            return {}
        tensors = {**layer._parameters, **layer._buffers}
        return {n: 0 for n, t in tensors.items() if t is not None and t.dim() == 1}
    own = [*layer.parameters(recurse=False)]
    return None if own else {}


def without(
    model: nn.Module, groups: Iterable[ChannelGroup], gone: Mapping[str, Collection[int]]
) -> Smaller:
    """What is left of ``model`` without the channels ``gone[root]`` of each group."""
    leaving: dict[str, dict[int, list[Tensor]]] = {}
    for group in groups:
        if not gone.get(group.root):
            continue
        marked = torch.zeros(group.width, dtype=torch.bool)
        marked[list(gone[group.root])] = True
        for member in group.members:
            found = leaving.setdefault(member.tensor, {}).setdefault(member.dimension, [])
            found.append(member.indices[marked[member.channels]])
    return Smaller.without(
        model,
        {
            name: {dimension: torch.cat(parts) for dimension, parts in by_dimension.items()}
            for name, by_dimension in leaving.items()
        },
    )


def check_bare(model: nn.Module) -> None:
    """Raises ValueError for a network in a wrapper that would not notice that it became smaller."""
    kind = type(model).__name__
    if kind in WRAPPERS:
        again = "compile it" if kind == "OptimizedModule" else "wrap it"
        raise ValueError(
            f"channels are taken out of the network itself, not of a {kind}: give what is inside, "
            f"and {again} again after every cut"
        )
    for name, module in model.named_modules():
        if any(hasattr(module, name) for name in ("parametrizations", "weight_orig", "weight_g")):
            raise ValueError(
                f"{name or 'the network'} has a parametrised weight (torch.nn.utils); make it "
                "permanent before channels are taken out"
            )
