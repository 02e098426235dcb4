"""How does a weight tensor lie as units, and how do units rank?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refine.sparsity.layers import by_output, from_output, transposed


@dataclass(frozen=True)
class Units:
    """How a tensor lies as units: to a (units, weights of a unit) matrix and back."""

    rows: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, torch.Size], Tensor]
    in_order: bool = True  # the weights of a unit follow each other in index


def inputs(layer: nn.Module, shape: torch.Size) -> int:
    """How many inputs (of a group) weights of this shape have; an odd 1 if they have none."""
    if transposed(layer):
        return shape[0] // layer.groups
    return shape[1] if len(shape) > 1 else 1


def by_channel(layer: nn.Module) -> Units:
    """A row for every output channel."""
    return Units(
        lambda tensor: by_output(layer, tensor),
        lambda rows, shape: from_output(layer, rows, shape),
        in_order=not transposed(layer),
    )


def by_input(layer: nn.Module, m: int) -> Units:
    """A row for every ``m`` consecutive inputs. They are never of two groups, as ``m`` divides the
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
    """The number nearest to ``count`` that is a number of whole units, the lowest first, of which
    one is left."""
    order = scores.argsort(stable=True)
    passed = sizes[order][sizes[order] > 0].cumsum(0)
    passed = torch.cat([passed.new_zeros(1), passed[:-1]])
    return int(passed[(passed - count).abs().argmin()])


def distinct(scores: Tensor) -> Tensor:
    """Equal scores raised by the smallest steps there are, the later more, until no two are equal:
    then units that do not lie in one piece go whole."""
    kind = torch.int32 if scores.element_size() == 4 else torch.int64
    top = torch.iinfo(kind).max
    ascending, order = (scores + 0.0).sort(stable=True)  # -0.0 and 0.0 are one number
    number = ascending.view(kind)
    number = torch.where(number < 0, number ^ top, number)  # integers in the order of the floats
    place = torch.arange(len(number), dtype=kind, device=number.device)
    number = (number - place).cummax(0).values + place
    number = torch.where(number < 0, number ^ top, number)
    return torch.empty_like(scores).scatter_(0, order, number.view(scores.dtype))
