"""What goes as one: a weight, a filter, a kernel, or all but n of every m weights?

Each is a function ``(model, n, m, prunable) -> Granularity``, two steps around the allocation of
the tensors ``prunable`` (by default those of ``prunable_names(model)``). Before it,
``group(scores, masks) -> scores`` gives every weight its unit's score and leaves out the tensors
that have no such units; after it, ``whole(scores, masks, counts) -> counts`` makes the counts of
whole units, of the grouped scores. ``Masks.lowest(scores, counts)`` then marks whole units.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from refine.pruning.units import (
    KERNELS,
    WEIGHTS,
    Units,
    by_channel,
    by_input,
    distinct,
    inputs,
    mean_of_living,
    nearest,
    surplus,
)
from refine.sparsity.masks import prunable_names
from refine.sparsity.ranking import ends
from refine.sparsity.topology import answers, attached, traced

__all__ = ["filter", "kernel", "n_m", "weight"]

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Granularity:
    """The two steps, the prunable tensors that stay dense because they have no such units, and the
    parameters that go with the channels of others."""

    group: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Scores]
    whole: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, int]], dict[str, int]]
    left_out: tuple[str, ...] = ()
    attached: Mapping[str, list[str]] = field(default_factory=dict)


def weight(
    model: nn.Module, n: int = 2, m: int = 4, prunable: Iterable[str] | None = None
) -> Granularity:
    """Every weight for itself."""
    return Granularity(lambda scores, masks: dict(scores), lambda scores, masks, counts: counts)


# Named after what it prunes; nothing here needs Python's own ``filter``.
def filter(
    model: nn.Module, n: int = 2, m: int = 4, prunable: Iterable[str] | None = None
) -> Granularity:
    """All weights of one output channel (Li et al. 2017, arXiv:1608.08710). Left out: layers whose
    outputs are the network's, recurrent and attention layers."""
    layers = owners(model, prunable)
    graph = traced(model)
    final = answers(model, layers, graph)
    units = {
        name: by_channel(layer)
        for name, layer in layers.items()
        if name not in final and not within_attention(model, name)
        if not isinstance(layer, nn.RNNBase | nn.MultiheadAttention)
    }
    going = {name: attached(model, name, graph) for name in units}
    return replace(in_units(layers, units), attached=going)


def kernel(
    model: nn.Module, n: int = 2, m: int = 4, prunable: Iterable[str] | None = None
) -> Granularity:
    """The spatial kernel between an input and an output channel (Mao et al. 2017,
    arXiv:1705.08922); where there is none, a weight."""
    layers = owners(model, prunable)
    return in_units(
        layers,
        {
            name: KERNELS if isinstance(layer, nn.modules.conv._ConvNd) else WEIGHTS
            for name, layer in layers.items()
        },
    )


def n_m(
    model: nn.Module, n: int = 2, m: int = 4, prunable: Iterable[str] | None = None
) -> Granularity:
    """All but the n highest of every m consecutive weights along the input channels, at every
    position of a kernel (Zhou et al. 2021, arXiv:2102.04010). Weights already cut are among those
    that go. Left out: tensors whose inputs (of a group) do not divide into m."""
    layers = owners(model, prunable)
    units = {
        name: by_input(layer, m)
        for name, layer in layers.items()
        if inputs(layer, model.get_parameter(name).shape) % m == 0
    }

    def group(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Scores:
        found = {}
        for name, values in scores.items():
            if name in units and name in masks:
                ends(values, masks[name])  # refuses NaN, which has no rank
                rows = surplus(units[name].rows(values), units[name].rows(masks[name]), n)
                found[name] = units[name].back(rows, values.shape)
        return found

    def whole(
        scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], counts: Mapping[str, int]
    ) -> dict[str, int]:
        """What the pattern demands, whatever the allocation said."""
        return {
            name: int(((values < 0) & masks[name].to(values.device)).count_nonzero())
            for name, values in scores.items()
        }

    return Granularity(group, whole, tuple(name for name in layers if name not in units))


def in_units(layers: Iterable[str], units: Mapping[str, Units]) -> Granularity:
    """The two steps for units that each have a score: the mean of its living weights."""

    def group(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Scores:
        found = {}
        for name, values in scores.items():
            if name in units and name in masks:
                rows = units[name].rows(values)
                alive = units[name].rows(masks[name].to(values.device))
                means = mean_of_living(rows, alive)
                if not units[name].in_order:
                    means = distinct(means)
                found[name] = units[name].back(means[:, None].expand_as(rows), values.shape)
        return found

    def whole(
        scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], counts: Mapping[str, int]
    ) -> dict[str, int]:
        return {
            name: nearest(
                units[name].rows(scores[name])[:, 0],
                units[name].rows(masks[name].to(scores[name].device)).sum(1),
                count,
            )
            for name, count in counts.items()
        }

    return Granularity(group, whole, tuple(name for name in layers if name not in units))


def owners(model: nn.Module, prunable: Iterable[str] | None) -> dict[str, nn.Module]:
    """The layer of every prunable tensor."""
    names = prunable_names(model) if prunable is None else prunable
    return {name: model.get_submodule(name.rpartition(".")[0]) for name in names}


def within_attention(model: nn.Module, name: str) -> bool:
    """Whether a tensor is part of an attention layer, such as its output projection."""
    path = name.rpartition(".")[0]
    above = model.get_submodule(path.rpartition(".")[0])
    return isinstance(above, nn.MultiheadAttention)
