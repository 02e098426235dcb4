"""Which of the examples in memory make the next batch?

Each is a function ``(draw) -> iterator of (places, weights)`` that yields ``draw.steps`` of them:
where the examples of a batch are in memory, and the weight of each one's loss (None: all 1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.replay.sum_tree import SumTree

__all__ = ["proportional", "shuffled"]

SMALLEST = 1e-6  # added to a loss, so that an example whose loss is 0 is still drawn at times


@dataclass(frozen=True)
class Draw:
    """What is to be drawn: ``steps`` batches of ``size`` out of ``count`` examples.

    losses: the loss of the examples at these places, under the network at the time of the call.
    alpha: how much losses count in a draw, from 0 (not at all) to 1. beta: how much of that the
        weights compensate, from 0 to 1.
    """

    count: int
    size: int
    steps: int
    generator: torch.Generator
    losses: Callable[[Tensor], Tensor]
    alpha: float = 0.6
    beta: float = 0.4


Sampling = Callable[[Draw], Iterator[tuple[Tensor, Tensor | None]]]


def shuffled(draw: Draw) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Goes through the memory in a random order; takes a new order when too few are left for a
    batch."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(draw.steps):
        if len(order) < draw.size:
            order = torch.randperm(draw.count, generator=draw.generator)
        chosen, order = order[: draw.size], order[draw.size :]
        yield chosen, None


def proportional(draw: Draw) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Prioritised replay (Schaul et al. 2016, arXiv:1511.05952, algorithm 1): an example is drawn
    with a probability P in proportion to (loss + a little)^alpha, one from each of ``size`` equal
    slices of the whole, and has the weight (count P)^-beta, divided by the batch's greatest.

    All losses are computed at first, and those of a batch again after it was trained on. A negative
    loss counts as 0.
    """
    tree = SumTree(draw.count)

    def renew(places: Tensor) -> None:
        losses = draw.losses(places).cpu().double().clamp(min=0)
        tree[places.numpy()] = ((losses + SMALLEST) ** draw.alpha).numpy()

    for places in torch.arange(draw.count).split(draw.size):
        renew(places)
    chosen = None
    for _ in range(draw.steps):
        if chosen is not None:
            renew(chosen)
        offsets = torch.rand(draw.size, generator=draw.generator, dtype=torch.float64)
        slices = (torch.arange(draw.size) + offsets) / draw.size
        chosen = torch.from_numpy(tree.find(slices.numpy() * tree.total))
        probability = torch.from_numpy(tree[chosen.numpy()]) / tree.total
        weights = (draw.count * probability) ** -draw.beta
        yield chosen, (weights / weights.max()).float()
