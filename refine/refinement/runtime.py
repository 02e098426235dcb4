"""Which object refines a network while somebody trains it?"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from refine import parallel
from refine.batches import Batch, OnDevice, Rewound, Samples
from refine.cache import Cache
from refine.channels.cut import ChannelCut
from refine.channels.plan import Structured
from refine.cycle import Cycle, CycleReport, Parts
from refine.distillation import Distillation
from refine.objective import LossFunction, Objective
from refine.pruning.cut import Masked, MaskedCut
from refine.pruning.importance import as_importance, none
from refine.pruning.method import CutMethod
from refine.refinement.counts import Counts
from refine.refinement.rehearsal import checked, rehearse
from refine.refinement.saving import Saved
from refine.refinement.subclassing import Overridable, placed
from refine.refinement.undo import undone_if_it_fails
from refine.regrowth import Regrowth
from refine.regularization import Regularizer
from refine.replay import Replay, ReplayBatches, Replayed, ReplaySource, as_replay
from refine.replay.steps import ReplaySteps
from refine.sparsity.copies import leave_out
from refine.sparsity.masks import Masks
from refine.sparsity.shrink import Follower
from refine.sparsity.watching import forget, watch
from refine.sparsity.zeros import zero_in_


class RuntimeRefinement(Counts, Overridable, Saved):
    """Refines a network while somebody trains it.

    >>> refinement = RuntimeRefinement(model)
    >>> report = refinement.refinement_cycle(loader, prune_ratio=0.15)   # now and then

    From the first cycle on, every step of any torch optimizer, and ``load_state_dict``, leave cut
    weights at exactly 0.0. The optimizer need not be passed, nor this object kept: the masks live
    as long as the model. Its deep copy has none, unless it has this object in an attribute: then
    the copy has a refinement of its own.

    pruner: ``Masked(importance, allocation, granularity)``, the default, holds single weights at 0;
        ``Structured(criterion)`` takes whole channels out. Parameters then have fewer elements and
        optimizers follow; a compiled or distributed wrapper has to be made again.
    regrowth: what grows back after a cut; by default nothing.
    replay: what to train on after the cut: a memory of refine/replay/, or ``(model, batches) ->
        iterator of (inputs, targets)``; by default ``Replay()``, 30 batches of 128 from the 1,000
        inputs of highest loss; ``Replay(steps=0)`` for none.
    distillation: a teacher for the replay's steps. cache: keeps what is cut, for ``restore``.
    regularizer: what training steps add to the gradients; it becomes smaller with the network.
    loss: ``(outputs, targets) -> scalar``, a function or a module, for scores, replay and teacher
        alike; by default the one that the network returns with its outputs, else cross entropy.
        See refine/objective.py.
    optimizer: takes the replay's steps; by default the optimizers that trained the model so far, at
        their present rates, or Adam at 0.001 if none has stepped yet. Or a function
        ``(batch: Replayed) -> loss`` that is one whole step, in place of loss and distillation.
    device: where the model and the batches are moved; by default the model stays where it is.

    steps: what a cycle does, ``refine.cycle.STEPS``; assign others to change it. atomic: whether a
        cycle that fails leaves all as it was; a copy of all is held during it.

    Batches are what refine/batches.py reads: pairs, longer tuples, Hugging Face's mappings.

    ValueError if ``model`` has nothing to prune, or other tensors of it are being pruned already.
    """

    def __init__(
        self,
        model: nn.Module,
        pruner: Masked | Structured | None = None,
        *,
        regrowth: Regrowth | None = None,
        replay: ReplaySource | ReplayBatches | None = None,
        distillation: Distillation | None = None,
        cache: Cache | None = None,
        regularizer: Regularizer | None = None,
        loss: LossFunction | None = None,
        optimizer: Optimizer | Callable[[Replayed], Tensor] | None = None,
        device: torch.device | str | None = None,
    ):
        self._given = {
            "pruner": pruner, "regrowth": regrowth, "replay": replay, "distillation": distillation,
            "cache": cache, "regularizer": regularizer, "loss": loss, "optimizer": optimizer,
            "device": device,
        }  # fmt: skip
        leave_out(self)
        parallel.check_whole(model)
        pruner = Masked() if pruner is None else pruner
        self.model, self.steps, self._device = placed(model, device), self._steps(), device
        self.atomic, self._rehearsed = True, callable(optimizer)
        self._watch = watch(model, pruner.prunable)
        self.masks: Masks = self._watch.masks
        regrowth, distillation = regrowth or Regrowth(budget=0), distillation or Distillation()
        parts = {"distillation": distillation, "cache": cache, "regularizer": regularizer}
        # Parts that are saved with the refinement and shrink with the network; more may be added.
        self.followers: dict[str, Follower] = {"regrowth": regrowth}
        self.followers |= {name: part for name, part in parts.items() if part is not None}
        importance = pruner.importance if isinstance(pruner, Masked) else none
        self.importance = as_importance(self._scores() or importance)
        self.method: CutMethod[Any]
        if isinstance(pruner, Structured):
            if cache is not None or regrowth.active:
                raise ValueError("channels that are taken out neither grow back nor are cached")
            self.method = ChannelCut(model, pruner, self._watch, self.followers)
        else:
            keepers = (regrowth,) if cache is None else (regrowth, cache)
            self.method = MaskedCut(model, pruner, self._watch, self.importance, keepers)
        if self.importance.needs_steps:
            self._watch.observers.append(self.importance.observe)
        objective, memory = Objective(loss), as_replay(Replay() if replay is None else replay)
        if isinstance(memory, Replay) and memory.loss is None:
            memory.loss = objective
        steps = ReplaySteps(model, self._watch, objective, optimizer, distillation)
        self.parts = Parts(
            model, self._watch, self.method, regrowth, distillation, cache, memory, steps, objective
        )
        if distillation.teacher is not None:
            self._watch.follow(distillation.observe)
        if isinstance(optimizer, Optimizer):
            self._watch.know(optimizer)
        self._known = frozenset(vars(self))

    @property
    def device(self) -> torch.device:
        """The device that batches are moved to."""
        return torch.device(self._device or next(self.model.parameters()).device)

    def refinement_cycle(
        self,
        loader: Iterable[Batch] | None = None,
        prune_ratio: float = 0.15,
        evaluate: Callable[[nn.Module], float] | None = None,
        *,
        scoring: Iterable[Batch] | None = None,
        validate: Callable[[nn.Module], float] | None = None,
        floor: float | None = None,
        regrow: bool = True,
        recover: Callable[[], None] | None = None,
    ) -> CycleReport:
        """One cycle: the steps of refine/cycle.py, one after the other.

        loader: batches of (inputs, targets), iterable more than once (a DataLoader, a list), for
            scores that need data and for the replay; without it there is no replay.
        prune_ratio: share of the survivors to cut, below 1; negative: share that grows back.
        evaluate: measures the accuracy after the cut and after the replay, for the report.
        scoring: batches for scores; by default the first ``scoring_batches`` of ``loader``.
        validate: measures the accuracy on validation data, for choices.
        floor: the least that ``validate`` may give after the cut; else the cut is made smaller, by
            bisection to a hundredth of the ratio.
        regrow: whether weights may grow back in a cycle that cuts.
        recover: called after the cut, before the replay, for the learning rate and the weights,
            such as ``lambda: recovery.restart(steps)``; see refine/recovery.

        ValueError if the ratio is out of range, a score is not a number, or the network cannot be
        trained on a batch. Whatever is raised, all is then as it was before, if ``atomic``.
        """
        prune_ratio = checked(self.parts, prune_ratio)
        if isinstance(loader, Iterator):
            loader = Rewound(loader, max(1, self.method.scoring_batches))
        batches = None if loader is None else OnDevice(loader, self.device)
        given = loader if scoring is None else scoring
        scored = OnDevice(() if given is None else given, self.device)
        samples = Samples(scored, self.method.scoring_batches)
        if not self._rehearsed and batches is not None:
            rehearse(self.parts, Samples(batches, 1))
            self._rehearsed = True
        cycle = Cycle(
            self.parts, prune_ratio, batches, samples, evaluate, validate, floor, regrow, recover
        )
        undone = undone_if_it_fails(self.parts, self.importance, self.followers)
        with undone if self.atomic else nullcontext():
            cycle.run(self.steps)
            parallel.equal_(self.model, self.masks)
        return self._report(cycle)

    def _report(self, cycle: Cycle) -> CycleReport:
        losses, cache = cycle.losses, self.parts.cache
        return CycleReport(
            cycle=self.cycles, ratio=cycle.ratio, cut=cycle.cut, grown=cycle.grown,
            sparsity=self.sparsity, prunable_sparsity=self.prunable_sparsity,
            active_parameters=self.active_parameters, total_parameters=self.total_parameters,
            replay_steps=len(losses),
            replay_loss=float(torch.stack(losses).mean()) if losses else None,
            accuracy_after_cut=cycle.accuracy_after_cut,
            accuracy_after_replay=cycle.accuracy_after_replay,
            memory_examples=self.parts.replay.examples, memory_bytes=self.parts.replay.bytes,
            cache_bytes=cache.bytes if cache else 0, seconds=cycle.seconds, **self.method.left(),
        )  # fmt: skip

    def restore(
        self,
        cycles: Iterable[int] | int | None = None,
        *,
        names: Iterable[str] | None = None,
        share: float = 1.0,
    ) -> dict[str, int]:
        """Restores cut weights with the values that they had; returns how many of each tensor.

        cycles: those cut by these, counted from 1; by default by any. names: globs of tensors'
        names. share: of these, the greatest. ValueError without a cache, or for what is not in it.
        """
        if self.parts.cache is None:
            raise ValueError("nothing that was cut is kept; give the refinement a cache")
        cycles = [cycles] if isinstance(cycles, int) else cycles
        marked, values = self.parts.cache.restorable(self.masks, cycles, names, share)
        self.masks.grow_(marked, values)
        self._watch.freeze_anew_()
        return {name: int(coming.sum()) for name, coming in marked.items() if name in self.masks}

    def end_task(self, loader: Iterable[Batch]) -> None:
        """To be called at the end of each task of a stream; the replay's memory keeps what it has
        room for of the task's data, ``loader``."""
        self.parts.replay.keep(self.model, OnDevice(loader, self.device))
        self.parts.replay.begin_task()

    def begin_epoch(self) -> None:
        """To be called when an epoch begins; movement and a regrowth's only_epochs need it."""
        self.importance.begin_epoch()
        self._watch.begin_epoch()

    def zero_cut_in_(self, other: nn.Module) -> None:
        """Sets what is cut to 0.0 in another network of the same architecture too, such as a
        running average. ValueError if a tensor is not in it, or of another shape."""
        zero_in_(other, self.masks)

    def cut_zeros_(self) -> None:
        """Takes all prunable weights that are exactly 0 as cut: the masks of a loaded network."""
        self.masks.cut_({name: weight == 0 for name, weight in self.masks.weights().items()})

    def detach(self) -> None:
        """Lets go of the model: cut weights are 0 now, and train again. Another may follow."""
        forget(self.model)

    def _begin(self, model: nn.Module, given: dict[str, Any]) -> None:
        RuntimeRefinement.__init__(self, model, **given)
