"""What is cut together: a weight, a filter, a kernel, or all but n of every m weights?

Each is a function ``(model, prunable) -> Granularity``, two steps around the allocation of the
tensors ``prunable`` (by default those of ``prunable_names(model)``). Before it,
``group(scores, masks) -> scores`` gives every weight its unit's score and leaves out the tensors
that have no such units; after it, ``whole(scores, masks, counts) -> counts`` rounds the counts to
whole units of the grouped scores. ``Masks.lowest(scores, counts)`` then marks whole units.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from refine.sparsity.layers import (
    by_output,
    from_output,
    groups_of,
    home,
    prunable_names,
    transposed,
)
from refine.sparsity.parametrized import ALL, normed_dimension
from refine.sparsity.ranking import ends
from refine.sparsity.topology import attached, output_tensors, traced

__all__ = ["filter", "kernel", "n_m", "weight"]

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Granularity:
    """The two steps, the prunable tensors that stay dense because they have no such units, and the
    parameters that are cut with the channels of others."""

    group: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Scores]
    whole: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, int]], dict[str, int]]
    left_out: tuple[str, ...] = ()
    attached: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Units:
    """How a tensor is split into units: to a (units, weights of a unit) matrix and back."""

    rows: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, torch.Size], Tensor]
    in_order: bool = True  # the weights of a unit are neighbours in memory


def weight(model: nn.Module, prunable: Collection[str] | None = None) -> Granularity:
    """Single weights."""
    return Granularity(
        lambda scores, masks: dict(scores), lambda scores, masks, counts: dict(counts)
    )


# Named after what it prunes; nothing here needs Python's own ``filter``.
def filter(model: nn.Module, prunable: Collection[str] | None = None) -> Granularity:
    """All weights of one output channel (Li et al. 2017, arXiv:1608.08710). Left out: layers that
    compute the network's outputs, recurrent and attention layers, and the directions of
    ``weight_norm``, which cannot be 0 as a whole."""
    layers = owners(model, prunable)
    graph = traced(model)
    final = output_tensors(model, layers, graph)
    units = {
        name: by_channel(layer)
        for name, layer in layers.items()
        if name not in final and not within_attention(model, name)
        if normed_dimension(layer, name) in (None, ALL)
        if not isinstance(layer, nn.RNNBase | nn.MultiheadAttention)
    }
    going = {name: attached(model, name, graph) for name in units}
    return replace(in_units(layers, units), attached=going)


def kernel(model: nn.Module, prunable: Collection[str] | None = None) -> Granularity:
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
    model: nn.Module, prunable: Collection[str] | None = None, n: int = 2, m: int = 4
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
        """What the pattern requires; the allocation's counts are ignored."""
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


def owners(model: nn.Module, prunable: Collection[str] | None) -> dict[str, nn.Module]:
    """The layer of every prunable tensor."""
    names = prunable_names(model) if prunable is None else prunable
    return {name: model.get_submodule(home(model, name)) for name in names}


def within_attention(model: nn.Module, name: str) -> bool:
    """Whether a tensor is part of an attention layer, such as its output projection."""
    path = home(model, name)
    above = model.get_submodule(path.rpartition(".")[0])
    return isinstance(above, nn.MultiheadAttention)


def inputs(layer: nn.Module, shape: torch.Size) -> int:
    """How many inputs (of a group) weights of this shape have; 1, which no m divides, if none."""
    if transposed(layer):
        return shape[0] // groups_of(layer)
    return shape[1] if len(shape) > 1 else 1


def by_channel(layer: nn.Module) -> Units:
    """A row for every output channel."""
    return Units(
        lambda tensor: by_output(layer, tensor),
        lambda rows, shape: from_output(layer, rows, shape),
        in_order=not transposed(layer),
    )


def by_input(layer: nn.Module, m: int) -> Units:
    """A row for every ``m`` consecutive inputs. They never span two groups, as ``m`` divides the
    inputs of each."""
    axis = 0 if transposed(layer) else 1

    def rows(tensor: Tensor) -> Tensor:
        return tensor.movedim(axis, -1).reshape(-1, m)

    def back(matrix: Tensor, shape: torch.Size) -> Tensor:
        moved = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
        return matrix.reshape(moved).movedim(-1, axis)

    return Units(rows, back)


WEIGHTS = Units(lambda tensor: tensor.reshape(-1, 1), lambda rows, shape: rows.reshape(shape))
KERNELS = Units(
    lambda tensor: tensor.flatten(0, 1).flatten(1), lambda rows, shape: rows.reshape(shape)
)


def surplus(scores: Tensor, alive: Tensor, n: int) -> Tensor:
    """Rank among a row's living weights, less how many of them have to go: those below 0."""
    alive = alive.to(scores.device)
    rank = scores.argsort(dim=1, stable=True)
    order = rank.gather(
        1, alive.gather(1, rank).byte().argsort(dim=1, stable=True)
    )  # the dead first
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (place - (order.shape[1] - n)).to(torch.float32)


def mean_of_living(rows: Tensor, alive: Tensor) -> Tensor:
    """The mean of each row's living elements, 0 where none lives."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rows.masked_fill(~alive, 0.0).sum(1) / alive.sum(1).clamp(min=1)


def nearest(scores: Tensor, sizes: Tensor, count: int) -> int:
    """The number nearest to ``count`` that cuts whole units, lowest first, but not all."""
    order = scores.argsort(stable=True)
    passed = sizes[order][sizes[order] > 0].cumsum(0)
    passed = torch.cat([passed.new_zeros(1), passed[:-1]])
    return int(passed[(passed - count).abs().argmin()])


def distinct(scores: Tensor) -> Tensor:
    """The scores with equal ones raised by the smallest steps there are, in the order of their
    index, until no two are equal. Then units whose weights are not neighbours are cut whole."""
    integer = torch.int32 if scores.element_size() == 4 else torch.int64
    top = torch.iinfo(integer).max
    ascending, order = (scores + 0.0).sort(stable=True)  # -0.0 and 0.0 are one number
    number = ascending.view(integer)
    number = torch.where(number < 0, number ^ top, number)  # integers in the order of the floats
    place = torch.arange(len(number), dtype=integer, device=number.device)
    number = (number - place).cummax(0).values + place
    number = torch.where(number < 0, number ^ top, number)
    return torch.empty_like(scores).scatter_(0, order, number.view(scores.dtype))
