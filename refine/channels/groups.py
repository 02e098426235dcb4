"""Which channels of a network go together?

The library torch-pruning (DepGraph, Fang et al. 2023, arXiv:2301.12900) finds it out from a pass
through the network. Only this, flattened.py and criteria.py use that library.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refine.channels.flattened import flattened_channels_last_
from refine.evaluation.traceless import in_mode
from refine.sparsity.shrink import Smaller, depthwise, each_tensor
from refine.sparsity.topology import output_tensors, traced

INSTALL = "pip install 'runtime-refinement[structured]'"
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
        library = torch_pruning()
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
        with in_mode(model, training=False), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # about parameters without a layer: they get a Member
            self._graph = library.DependencyGraph().build_dependency(
                model, example_inputs=example[:1], verbose=False
            )
        flattened_channels_last_(self._graph)

    def library_groups(self) -> dict[str, Any]:
        """torch-pruning's own groups as the network is now, by root layer."""
        found = {}
        roots = (nn.modules.conv._ConvNd, nn.Linear)
        for group in self._graph.get_all_groups(
            ignored_layers=list(self._stay), root_module_types=list(roots)
        ):
            found[self._names[group[0].dep.target.module]] = group
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

    def prune(self, root: str, channels: Iterable[int]) -> None:
        """Takes channels of a group out of the network."""
        layer = self.model.get_submodule(root)
        pruner = self._graph.get_pruner_of_module(layer)
        self._graph.get_pruning_group(layer, pruner.prune_out_channels, list(channels)).prune()

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


def torch_pruning() -> Any:
    """The library; ValueError if it is not installed."""
    try:
        import torch_pruning as library
    except ImportError:
        raise ValueError(f"channels need the library torch-pruning: {INSTALL}") from None
    return library
