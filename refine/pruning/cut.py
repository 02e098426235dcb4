"""Which weights does a cut take?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from refine.evaluation.traceless import score
from refine.pruning.granularity import Granularity
from refine.sparsity.masks import Masks

Chosen = TypeVar("Chosen")
BISECTIONS = 7  # to a hundredth of the ratio


@dataclass
class Cut:
    """What goes first (``importance``), how much each tensor of ``model`` loses (``allocation``),
    and in what units; all weights are multiplied by ``downscale_factor`` before. ``number``: of the
    cycle, from 0."""

    model: nn.Module
    masks: Masks
    importance: Callable[..., dict[str, Tensor]]
    allocation: Callable[..., dict[str, int]]
    granularity: Granularity
    downscale_factor: float
    number: int

    def scored(self, batches: Iterable, loss: Callable[..., Tensor]) -> dict[str, Tensor]:
        """The scores of the weights."""
        return score(self.importance, self.model, batches, loss, self.number)

    def choose(self, scores: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
        """Marks what a cut of ``ratio`` of the survivors takes."""
        if ratio <= 0 or not scores:
            return {}
        grouped = self.granularity.group(scores, self.masks)
        counts = self.allocation(grouped, self.masks, ratio)
        return self.masks.lowest(grouped, self.granularity.whole(grouped, self.masks, counts))

    def downscale_(self) -> None:
        """Multiplies the prunable weights by the factor."""
        downscale_(self.masks.weights().values(), self.downscale_factor)

    def within(
        self,
        floor: float,
        validate: Callable[[nn.Module], float] | None,
        scores: dict[str, Tensor],
        ratio: float,
        chosen: dict[str, Tensor],
    ) -> tuple[float, dict[str, Tensor]]:
        """The largest cut up to ``ratio``, which takes ``chosen``, with which ``validate`` says
        ``floor`` at least, and what it takes. Every try is rolled back, to the bit."""
        if validate is None:
            raise ValueError("a floor needs validate, which measures accuracy on validation data")
        parameters, weights = list(self.model.parameters()), self.masks.weights()
        before = [parameter.detach().clone() for parameter in parameters]

        @torch.no_grad()
        def passes(marked: dict[str, Tensor]) -> bool:
            self.downscale_()
            self.masks.cut_(marked)
            reached = validate(self.model)
            self.masks.grow_(marked, {name: weights[name][going] for name, going in marked.items()})
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
            return reached >= floor

        return largest(ratio, chosen, lambda lower: self.choose(scores, lower), passes, {})


def largest(
    ratio: float,
    chosen: Chosen,
    choose: Callable[[float], Chosen],
    passes: Callable[[Chosen], bool],
    nothing: Chosen,
) -> tuple[float, Chosen]:
    """The largest cut up to ``ratio``, which takes ``chosen``, that passes, by bisection, and what
    it takes: ``nothing`` if none does."""
    if passes(chosen):
        return ratio, chosen
    low, high, best = 0.0, ratio, nothing
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        chosen = choose(middle)
        if passes(chosen):
            low, best = middle, chosen
        else:
            high = middle
    return low, best


@torch.no_grad()
def downscale_(weights: Iterable[Tensor], factor: float) -> None:
    """Multiplies the weights by the factor."""
    if factor != 1:
        for weight in weights:
            weight.mul_(factor)
