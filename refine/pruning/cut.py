"""How does a cycle mask single weights?

refine/channels/cut.py does the same for whole channels.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.evaluation.traceless import score
from refine.pruning.allocation import layerwise
from refine.pruning.granularity import Granularity, weight
from refine.pruning.importance import magnitude, none, random
from refine.pruning.left_alone import say_nothing_cut, without_scores
from refine.pruning.method import downscale_, largest
from refine.sparsity.layers import home, said
from refine.sparsity.masks import Masks
from refine.sparsity.optimizers import OptimizerWatch
from refine.sparsity.parametrized import scale_of

log = logging.getLogger("refine")
Marks = dict[str, Tensor]  # boolean, by tensor: True where a weight is cut


@dataclass(frozen=True)
class Masked:
    """How single weights are chosen; they stay in the network, at exactly 0.0.

    importance: ``(model, batches) -> {name: scores}``, the lowest are cut; it is given the
        ``loss`` if it has a parameter of that name. All but magnitude, random and none need data.
    allocation: ``(scores, masks, ratio) -> {name: how many of its survivors are cut}``.
    granularity: what is cut together: a function of refine/pruning/granularity.py.
    downscale_factor: the prunable weights are multiplied by it before the cut.
    scoring_batches: how many batches scores are made on.
    prunable: names of the parameters that may be cut; by default the weights of convolutions,
        linear, attention and recurrent layers that train and that no embedding owns too.
    """

    importance: Callable[..., dict[str, Tensor]] = magnitude
    allocation: Callable[..., dict[str, int]] = layerwise
    granularity: Callable[[nn.Module, Collection[str]], Granularity] = weight
    downscale_factor: float = 0.98
    scoring_batches: int = 8
    prunable: Collection[str] | None = None


def sparsify_(
    model: nn.Module, masks: Masks, sparsity: float, allocation: Callable[..., dict[str, int]]
) -> None:
    """Cuts weights at random until ``sparsity`` of the prunable ones are cut: the start of dynamic
    sparse training."""
    gone = round(sparsity * masks.prunable) - (masks.prunable - masks.surviving)
    if gone > 0:
        scores = score(random, model, (), number=-1)
        ratio = (gone - 0.5) / (masks.surviving - 1)
        masks.cut_(masks.lowest(scores, allocation(scores, masks, ratio)))


def _frozen(weight: Tensor | None) -> bool:
    return weight is not None and not weight.requires_grad


class Keeper(Protocol):
    """A part that records what is cut."""

    def note_cut(self, cycle: int, model: nn.Module, masks: Masks, marked: Marks) -> None:
        """Called just before the ``marked`` weights go, in that ``cycle``, counted from 1."""


class MaskedCut:
    """Chooses weights of ``model`` as ``settings`` say and holds them at 0 from then on.

    watch: that of the model. keepers: called with the weights of every cut, before it.
    """

    takes_channels = False

    def __init__(
        self,
        model: nn.Module,
        settings: Masked,
        watch: OptimizerWatch,
        importance: Callable[..., dict[str, Tensor]],
        keepers: Sequence[Keeper] = (),
    ):
        self.model, self.settings, self.number = model, settings, 0
        self.importance, self.masks = importance, watch.masks
        self.scoring_batches = settings.scoring_batches
        self._watch, self._keepers = watch, keepers
        self._fit_()
        self._alone: Collection[str] = ()  # tensors that this cycle neither cuts nor scales
        self._said: set[str] = set()  # those that have been named as such
        self._chosen = False  # in this cycle

    @property
    def prunable(self) -> int:
        """How many weights could be cut at first."""
        return self.masks.prunable

    @property
    def surviving(self) -> int:
        """How many weights live."""
        return self.masks.surviving

    def _fit_(self) -> None:
        self._structure = self._watch.structure
        self.granularity = self.settings.granularity(self.model, list(self.masks))
        for name, parameters in self.granularity.attached.items():
            self.masks.attach(self.model, name, parameters)

    def prepare(self, batches: Iterable[Batch], number: int) -> None:
        """Cycle ``number``, counted from 0, begins."""
        self.number, self._alone, self._chosen = number, (), False
        if self._structure != self._watch.structure:  # the network has other layers
            self._fit_()

    def scores(self, batches: Iterable[Batch], loss: Callable[..., Tensor]) -> dict[str, Tensor]:
        """The scores of the weights. ValueError if a frozen tensor that was named has none, or if
        no tensor has one."""
        asked, importance = list(self.masks), self.settings.importance
        scores = score(self.importance, self.model, batches, loss, self.number, asked)
        if getattr(importance, "function", importance) is not none:
            weights, named = self.masks.weights(), self.settings.prunable is not None
            if isinstance(scores, dict) and not named:  # what was frozen since stays as it is
                scores = {n: s for n, s in scores.items() if not _frozen(weights.get(n))}
            missing = without_scores(importance, scores, weights, named)
            if new := {name: why for name, why in missing.items() if name not in self._said}:
                log.warning("left alone: %s", said(new))
            self._alone = missing
            self._said |= set(new)
        return scores

    def choose(self, scores: dict[str, Tensor], ratio: float) -> Marks:
        """Marks the weights that a cut of ``ratio`` of the survivors takes."""
        if ratio <= 0 or not scores:
            return {}
        grouped = self.granularity.group(scores, self.masks)
        counts = self.settings.allocation(grouped, self.masks, ratio)
        marked = self.masks.lowest(grouped, self.granularity.whole(grouped, self.masks, counts))
        if not self._chosen and not any(bool(going.any()) for going in marked.values()):
            ways = self.settings.granularity, self.settings.allocation
            if say_nothing_cut(self.number + 1, *ways, grouped, counts):
                self._alone = list(self.masks)
        self._chosen = True  # a floor then tries smaller cuts, which may take nothing
        return marked

    def downscale_(self) -> None:
        """Multiplies the prunable weights by the factor; those of a weight norm by their gain."""
        weights = self.masks.weights()
        found = [
            scale_of(self.model.get_submodule(home(self.model, name)), weight)
            for name, weight in weights.items()
            if name not in self._alone
        ]
        downscale_(found, self.settings.downscale_factor)

    def cut_(self, choice: Marks) -> dict[str, int]:
        """Cuts the marked weights; returns how many of each tensor."""
        for keeper in self._keepers:
            keeper.note_cut(self.number + 1, self.model, self.masks, choice)
        self.masks.cut_(choice)
        self._watch.zero_moments_()
        return {name: int(marks.sum()) for name, marks in choice.items()}

    def left(self) -> dict[str, int]:
        """Empty: masks alone do not make the network smaller."""
        return {}

    def within(
        self,
        floor: float,
        validate: Callable[[nn.Module], float] | None,
        scores: dict[str, Tensor],
        ratio: float,
        choice: Marks,
    ) -> tuple[float, Marks]:
        """The largest ratio up to ``ratio`` after whose cut ``validate`` still gives ``floor``, and
        what it takes; ``choice`` is what ``ratio`` takes. Each try is rolled back to the bit."""
        if validate is None:
            raise ValueError("a floor needs validate, which measures accuracy on validation data")
        parameters, weights = list(self.model.parameters()), self.masks.weights()
        before = [parameter.detach().clone() for parameter in parameters]

        @torch.no_grad()
        def passes(marked: Marks) -> bool:
            self.downscale_()
            self.masks.cut_(marked)
            torch.clear_autocast_cache()  # of the weights before
            try:
                return validate(self.model) >= floor
            finally:
                now = {name: weights[name][going] for name, going in marked.items()}
                self.masks.grow_(marked, now)
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)

        return largest(ratio, choice, lambda lower: self.choose(scores, lower), passes, {})
