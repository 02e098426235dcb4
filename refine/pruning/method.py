"""What must a method of cutting a network offer?

There are two: single weights are masked (refine/pruning/cut.py), or whole channels are taken out
(refine/channels/cut.py). A cycle uses only ``CutMethod``.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from refine.batches import Batch

Choice = TypeVar("Choice")
Measure = Callable[[nn.Module], float]
BISECTIONS = 7  # to a hundredth of the ratio


class CutMethod(Protocol[Choice]):
    """Chooses and cuts. A ``Choice`` is what one cut takes."""

    scoring_batches: int  # on how many batches scores are made
    takes_channels: bool  # whether tensors become smaller

    @property
    def prunable(self) -> int:
        """The first value of ``surviving``."""

    @property
    def surviving(self) -> int:
        """What a cycle's ratio is a share of."""

    def prepare(self, batches: Iterable[Batch], number: int) -> None:
        """Cycle ``number``, counted from 0, begins."""

    def scores(self, batches: Iterable[Batch], loss: Callable[..., Tensor]) -> dict[str, Tensor]:
        """A score for each element that may be cut, by tensor."""

    def choose(self, scores: dict[str, Tensor], ratio: float) -> Choice:
        """What a cut of ``ratio`` of the survivors takes; nothing changes yet."""

    def within(
        self,
        floor: float,
        validate: Measure | None,
        scores: dict[str, Tensor],
        ratio: float,
        choice: Choice,
    ) -> tuple[float, Choice]:
        """The largest ratio up to ``ratio`` after whose cut ``validate`` still gives ``floor``, and
        what it takes; ``choice`` is what ``ratio`` takes."""

    def downscale_(self) -> None:
        """Multiplies the prunable weights by the factor of the settings."""

    def cut_(self, choice: Choice) -> dict[str, int]:
        """Cuts the choice; returns how many weights of each tensor."""

    def left(self) -> dict[str, int]:
        """Further values for the report, about the network that is left."""


def largest(
    ratio: float,
    choice: Choice,
    choose: Callable[[float], Choice],
    passes: Callable[[Choice], bool],
    nothing: Choice,
) -> tuple[float, Choice]:
    """The largest ratio up to ``ratio`` whose cut passes, by bisection, and what it takes.

    ``choice`` is what ``ratio`` takes; ``nothing`` is returned if no cut passes."""
    if passes(choice):
        return ratio, choice
    low, high, best = 0.0, ratio, nothing
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        choice = choose(middle)
        if passes(choice):
            low, best = middle, choice
        else:
            high = middle
    return low, best


@torch.no_grad()
def downscale_(weights: Iterable[Tensor], factor: float) -> None:
    """Multiplies the weights by the factor."""
    if factor != 1:
        for weight in weights:
            weight.mul_(factor)
