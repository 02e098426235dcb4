"""Which cut weights grow back after a cut, and with which values?

Score, allocation and initial value are plain functions; ``Regrowth`` holds the choice of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine import parallel
from refine.batches import Batch
from refine.evaluation.traceless import without_trace
from refine.regrowth import allocation as regrowth_allocation
from refine.regrowth import initial as initial_value
from refine.regrowth import score as regrowth_score
from refine.regrowth.allocation import Candidates
from refine.regrowth.reference import Denser, Reference
from refine.regrowth.similarity import feature_similarity
from refine.rng import stream
from refine.sparsity.layers import home, linear_turned, transposed
from refine.sparsity.masks import Masks
from refine.sparsity.ranking import highest
from refine.sparsity.shrink import Smaller


@dataclass(frozen=True)
class Regrown:
    """The regrown weights: ``counts`` of every prunable tensor, and of those that got any, the
    ``marked`` positions and their ``values`` in the order of the index."""

    counts: dict[str, int]
    marked: dict[str, Tensor]
    values: dict[str, Tensor]


@dataclass
class Regrowth:
    """Lets cut weights grow back after each cut.

    score, allocation, initial: functions of refine/regrowth/score.py, allocation.py and initial.py,
        or with the same parameters.
    budget: share of all prunable weights that grows back; 0 is no regrowth, at no cost.
    target_sparsity: in place of a budget, the share of the prunable weights that stays cut. With
        neither, as many grow back as were cut since the last regrowth.
    only_epochs: for how many epochs a cycle then trains only the regrown weights.
    reference: the denser network that saliency, reference, greedy and proportional use: a
        ``Reference``, or a ``Cache`` for what cycles have cut; by default the network's own state
        before its first cut.
    trial_steps: training steps on a copy before a controller's regrowth is judged.

    ValueError if both a budget and a target are given, or one is outside [0, 1].
    """

    score: Callable[..., dict[str, Tensor]] = regrowth_score.gradient
    allocation: Callable[[Candidates], dict[str, int]] = regrowth_allocation.cut
    initial: Callable[..., Tensor] = initial_value.zero
    budget: float | None = None
    target_sparsity: float | None = None
    only_epochs: int = 0
    seed: int = 0
    reference: Denser | None = None
    trial_steps: int = 20
    generator: torch.Generator = field(init=False, repr=False)
    _lost: dict[str, int] = field(init=False, repr=False, default_factory=dict)
    _stale: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)
    _first: Reference | None = field(init=False, repr=False, default=None)  # before the first cut

    def __post_init__(self) -> None:
        if self.budget is not None and self.target_sparsity is not None:
            raise ValueError("a regrowth has a budget or a target_sparsity, not both")
        for name in ("budget", "target_sparsity"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        self.generator = torch.Generator().manual_seed(stream(self.seed, "regrowth"))

    @property
    def active(self) -> bool:
        """Whether anything ever grows back."""
        return self.budget != 0

    @property
    def by_reference(self) -> bool:
        """Whether it uses a denser network."""
        by = {regrowth_score.saliency, regrowth_score.reference, initial_value.reference}
        by |= {regrowth_allocation.greedy, regrowth_allocation.proportional}
        return self.active and not by.isdisjoint((self.score, self.allocation, self.initial))

    @torch.no_grad()
    def note_cut(
        self, cycle: int, model: nn.Module, masks: Masks, marked: Mapping[str, Tensor]
    ) -> None:
        """Called just before ``masks.cut_(marked)``: records how many weights the tensors
        lose, their values if regrowth uses them, and before the first cut the network if it
        does."""
        if self.by_reference and self.reference is None and self._first is None:
            self._first = Reference.of(model, masks)
        weights = masks.weights()
        for name, going in marked.items():
            self._lost[name] = self._lost.get(name, 0) + int(going.sum())
            if self.initial is initial_value.stale:
                before = self._stale.get(name, torch.zeros_like(weights[name]))
                before = before.to(weights[name])
                self._stale[name] = torch.where(going.to(before.device), weights[name], before)

    def count(self, masks: Masks) -> int:
        """How many weights grow back now."""
        dead = masks.prunable - masks.surviving
        if self.target_sparsity is not None:  # Fraction: 0.29 of 100 is 29, not 28.999...
            stays = Fraction(str(self.target_sparsity)) * masks.prunable
            return max(0, dead - floor(stays + Fraction(1, 2)))
        if self.budget is not None:
            return min(dead, floor(Fraction(str(self.budget)) * masks.prunable))
        return min(dead, sum(self._lost.values()))

    def regrow_(
        self,
        model: nn.Module,
        masks: Masks,
        batches: Iterable[Batch] = (),
        loss: Callable[..., Tensor] = F.cross_entropy,
        reward: Callable[[Regrown], float] | None = None,
        count: int | None = None,
    ) -> Regrown:
        """Scores the cut weights, allocates, and lets the chosen ones live again.

        batches: (inputs, targets) on the model's device, iterable more than once, for scores and
            feature maps. reward: for a learned allocation, the accuracy on validation data of a
            copy with these weights regrown. count: in place of
            ``self.count(masks)``. ValueError if one is missing that the settings need; then the
            weights stay as they are.
        """
        count = self.count(masks) if count is None else min(count, masks.prunable - masks.surviving)
        if not count:
            self._lost.clear()
            return Regrown(dict.fromkeys(masks, 0), {}, {})
        weights = masks.weights()
        alive = {name: mask.to(weights[name].device) for name, mask in masks.items()}
        layers = {name: model.get_submodule(home(model, name)) for name in masks}
        # torch.nn.init counts the fans of transposed convolutions as if they were not.
        inputs_first = transposed if self.initial is initial_value.fan_in else linear_turned
        turned = {name: layer for name, layer in layers.items() if inputs_first(layer)}
        reference = self._denser(model, masks)
        with parallel.all_or_none():
            scores = self.score(model, batches, alive, reference, loss, self.generator)
        parallel.mean_(scores)

        def similarity() -> dict[str, float]:
            if reference is None:
                raise ValueError("this allocation compares feature maps with a reference's")
            return feature_similarity(model, batches, alive, reference)

        def trial(counts: Mapping[str, int]) -> float:
            if reward is None:
                raise ValueError("this allocation learns from a reward")
            draws = self.generator.clone_state()  # each trial has the random draws of the regrowth
            regrown = self._regrown(weights, alive, scores, counts, reference, draws, turned)
            with without_trace(model, training=model.training):  # a reward trains, and draws
                return reward(regrown)

        counts = self.allocation(
            Candidates(scores, alive, count, dict(self._lost), similarity, trial)
        )
        regrown = self._regrown(weights, alive, scores, counts, reference, self.generator, turned)
        parallel.first_(regrown.values[name] for name in sorted(regrown.values))
        masks.grow_(regrown.marked, regrown.values)
        self._lost.clear()
        return regrown

    @torch.no_grad()
    def _regrown(
        self,
        weights: Mapping[str, Tensor],
        alive: Mapping[str, Tensor],
        scores: Mapping[str, Tensor],
        counts: Mapping[str, int],
        reference: Reference | None,
        generator: torch.Generator,
        turned: Mapping[str, nn.Module],
    ) -> Regrown:
        marked: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for name, count in counts.items():
            if count:
                marked |= highest(scores, {name: ~alive[name]}, count)
                dense = None if reference is None else reference.values[name]
                layer = turned.get(name)
                start = initial_value.turned(self.initial, layer) if layer else self.initial
                values[name] = start(
                    weights[name],
                    alive[name],
                    marked[name],
                    dense,
                    self._stale.get(name),
                    generator,
                )
        return Regrown(dict(counts), marked, values)

    def _denser(self, model: nn.Module, masks: Masks) -> Reference | None:
        if self.reference is None:
            return self._first
        if isinstance(self.reference, Reference) or self.by_reference:
            return self.reference.denser(model, masks)
        return None  # a cache that nothing here uses is not unpacked

    def shrunk_(self, model: nn.Module, smaller: Smaller) -> None:
        """Does nothing: channels that were taken out do not grow back."""

    def state_dict(self) -> dict[str, Any]:
        """The generator and the record of cuts, as tensors and numbers."""
        return {
            "generator": self.generator.get_state(),
            "lost": dict(self._lost),
            "stale": dict(self._stale),
            "first": vars(self._first) if self._first else {},
        }

    def load_state_dict(self, state: dict[str, Any], model: nn.Module | None = None) -> None:
        """Restores a ``state_dict``."""
        self.generator.set_state(state["generator"])
        self._lost, self._stale = dict(state["lost"]), dict(state["stale"])
        self._first = Reference(**state["first"]) if state["first"] else None
