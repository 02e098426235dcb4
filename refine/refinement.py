"""What happens in a refinement cycle?

Importance, downscale, cut, zero the moments of what was cut, regrowth, recovery, replay.
``RuntimeRefinement`` does this in anybody's training loop and keeps what it cut at zero from then
on.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from refine.batches import Batch, OnDevice, Samples
from refine.cache import Cache
from refine.channels.cut import ChannelCut
from refine.channels.plan import Plan, Structured
from refine.cycle import CycleReport
from refine.distillation import Distillation
from refine.evaluation.traceless import score
from refine.pruning.allocation import erk, layerwise
from refine.pruning.cut import Cut
from refine.pruning.granularity import Granularity, weight
from refine.pruning.importance import magnitude, random
from refine.regrowth.reference import Reference
from refine.regrowth.regrowth import Regrown, Regrowth
from refine.regrowth.trial import trial
from refine.regularization import Regularizer
from refine.replay import Replay, Replayed
from refine.replay_training import ReplayTraining, Step
from refine.sparsity.masks import Masks
from refine.sparsity.optimizers import watch
from refine.sparsity.ranking import survivors
from refine.sparsity.shrink import Smaller, reshape_, smaller_

ReplayBatches = Callable[[nn.Module, Iterable[Batch]], Iterator[Batch | Replayed]]
FROM_CACHE = "cache"


class RuntimeRefinement:
    """Refines a network while somebody trains it.

    >>> refinement = RuntimeRefinement(model)
    >>> report = refinement.refinement_cycle(loader, prune_ratio=0.15)   # now and then

    From the first cycle on, every step of any torch optimizer leaves cut weights at exactly 0.0,
    whatever its momentum or weight decay; the optimizer need not be shown, and this object need
    not be kept: the masks live as long as the model, and a second RuntimeRefinement of the same
    model goes on with them. After other changes of the weights, such as ``load_state_dict``, call
    ``masks.zero_cut_()``. A deep copy of the model has no masks.

    importance: ``(model, batches) -> {name: scores}``, lowest first to go; one that has a parameter
        ``loss`` is given it. All but magnitude, random and none need data.
    allocation: ``(scores, masks, ratio) -> {name: how many of its survivors go}``.
    granularity: what goes together: a function of refine/pruning/granularity.py.
    regrowth: what grows back after a cut; see refine/regrowth/regrowth.py. By default nothing.
    reference: a denser state of the network, for regrowth that goes by one; "cache": what cycles
        have cut; by default its own before the first cut.
    scoring_batches: how many batches scores are made on.
    trial_steps: training steps on these before a controller's regrowth is judged.
    replay: what to train on after the cut: a memory of refine/replay/, or ``(model, batches) ->
        iterator of (inputs, targets)``; by default ``Replay()``, 30 batches of 128 from the 1,000
        inputs of highest loss; ``Replay(steps=0)`` for none.
    distillation: a teacher for the replay's steps, see refine/distillation/; by default none.
    cache: keeps what is cut, for ``restore``; by default nothing does.
    structured: takes whole channels out of the network in place of single weights, with all that
        depends on them: it becomes physically smaller. Needs torch-pruning; importance, allocation,
        granularity, regrowth and cache are then of no use. Parameters are new ones after a cut;
        optimizers go on with them and their moments by themselves; hooks on them are to be set
        again.
    example: inputs like those of the network, for structured; by default the loader's first.
    regularizer: what training steps add to the gradients (refine/regularization/): it goes along
        with the channels that stay.
    downscale_factor: the prunable weights are multiplied by it before the cut.
    loss: ``(outputs, targets) -> scalar``, and a number per element with ``reduction="none"``, as
        the losses of torch.nn.functional do; the default replay ranks its inputs by it.
    optimizer: takes the replay steps; its moments are cleared even if it has not stepped yet. By
        default the optimizers that trained the model so far, at
        their present learning rates; Adam at 0.001 where none has stepped yet.
    step: ``(batch: Replayed) -> loss`` is one whole replay step, in place of loss, optimizer and
        what distillation makes of the loss.
    prunable: names of the parameters that may be cut; by default the weights of convolutions,
        linear, attention and recurrent layers.
    device: where to bring the batches; by default where the model is.

    ValueError if there is nothing to prune in ``model``, or other tensors of it are pruned already.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        importance: Callable[[nn.Module, Iterable], dict[str, Tensor]] = magnitude,
        allocation: Callable[..., dict[str, int]] = layerwise,
        granularity: Callable[[nn.Module], Granularity] = weight,
        regrowth: Regrowth | None = None,
        reference: Reference | str | None = None,
        scoring_batches: int = 8,
        trial_steps: int = 20,
        replay: Replay | ReplayBatches | None = None,
        distillation: Distillation | None = None,
        cache: Cache | None = None,
        structured: Structured | None = None,
        example: Tensor | None = None,
        regularizer: Regularizer | None = None,
        downscale_factor: float = 0.98,
        loss: Callable[..., Tensor] = F.cross_entropy,
        optimizer: Optimizer | None = None,
        step: Step | None = None,
        prunable: Iterable[str] | None = None,
        device: torch.device | str | None = None,
    ):
        self.model = model
        self._watch = watch(model, prunable)
        self.masks: Masks = self._watch.masks
        self.cycles = 0
        if isinstance(importance, type):  # one that remembers, such as movement
            importance = importance()
        self.importance, self.allocation = importance, allocation
        self.downscale_factor = downscale_factor
        self.granularity = granularity(model, prunable=list(self.masks))
        for name, parameters in self.granularity.attached.items():
            self.masks.attach(model, name, parameters)
        self.regrowth = regrowth or Regrowth(budget=0)
        self.cache = cache
        if reference == FROM_CACHE and cache is None:
            raise ValueError("reference='cache' needs a cache")
        self.regularizer = regularizer
        self.channels: ChannelCut | None = None
        if structured is not None:
            if cache is not None or self.regrowth.active:
                raise ValueError("channels that are taken out neither grow back nor are cached")
            if self.masks.attached:
                raise ValueError("the channels of this model are masked already")
            self.channels = ChannelCut(
                model,
                structured,
                example,
                watch=self._watch,
                only=None if prunable is None else set(self.masks),
                downscale_factor=downscale_factor,
            )
        # What is told when the network becomes smaller.
        self.shrinking: list[Callable[[Smaller], None]] = []
        self._by_cache, self._own_reference = reference == FROM_CACHE, reference is None
        self.reference = None if self._by_cache else reference
        self.scoring_batches, self.trial_steps = scoring_batches, trial_steps
        if hasattr(importance, "observe"):
            self._watch.observers.append(importance.observe)
        self._only_epochs = 0
        self.replay = Replay(loss=loss) if replay is None else replay
        self.loss = loss
        self._device = device
        self.distillation = distillation or Distillation()
        self._training = ReplayTraining(
            model, self._watch, loss, optimizer, step, self.distillation
        )
        if self.distillation.teacher is not None:
            self._watch.follow(self.distillation.observe)
        if optimizer is not None:
            self._watch.know(optimizer)

    @property
    def device(self) -> torch.device:
        """Where batches are brought to."""
        return torch.device(self._device or next(self.model.parameters()).device)

    @property
    def total_parameters(self) -> int:
        """All parameters that the model had at first, also those that are never cut."""
        return sum(prod(self._watch.at_first[name]) for name, _ in self.model.named_parameters())

    @property
    def active_parameters(self) -> int:
        """The parameters less the weights that were cut, and what went with their channels."""
        present = sum(parameter.numel() for parameter in self.model.parameters())
        return present - self.masks.masked - self.masks.attached_cut

    @property
    def sparsity(self) -> float:
        """Share of all parameters that was cut."""
        return 1 - self.active_parameters / self.total_parameters

    @property
    def prunable_sparsity(self) -> float:
        """Share of the prunable weights that was cut."""
        return 1 - self.masks.surviving / self.masks.prunable

    @property
    def prunable(self) -> int:
        """What ``surviving`` was at first."""
        return self.channels.full if self.channels else self.masks.prunable

    @property
    def surviving(self) -> int:
        """What a cycle's ratio is a share of: the weights that live, or what is left of that which
        ``structured.unit`` counts."""
        return self.channels.surviving if self.channels else self.masks.surviving

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
        """One cycle: importance, downscale, cut, moments, regrowth, recovery, replay.

        loader: batches of (inputs, targets), iterable more than once (a DataLoader, a list), for
            scores that need data and for the replay; without it there is no replay.
        prune_ratio: share of the surviving weights to cut, below 1. A negative one cuts nothing:
            so many for each survivor grow back.
        evaluate: measures the accuracy after the cut and after the replay, for the report.
        scoring: batches for scores; by default the first ``scoring_batches`` of ``loader``.
        validate: measures the accuracy on validation data, for choices.
        floor: the least that ``validate`` may say after the cut; where it says less, the largest
            cut for which it does not is sought by bisection, to a hundredth of the ratio.
        regrow: whether weights may grow back in a cycle that cuts.
        recover: called when the weights are cut, before the replay: what the learning rate and the
            weights do then, such as ``lambda: recovery.restart(steps)``; see refine/recovery.

        ValueError if the ratio is out of range or a score is not a number; then the weights stay
        as they are.
        """
        if not prune_ratio < 1:
            raise ValueError(f"prune_ratio must be below 1, not {prune_ratio}")
        if prune_ratio < 0 and not self.regrowth.active:
            raise ValueError(f"prune_ratio={prune_ratio:.3g} is to grow, and there is no regrowth")
        batches = OnDevice(() if loader is None else loader, self.device)
        seconds: dict[str, float] = {}
        samples = Samples(
            batches if scoring is None else OnDevice(scoring, self.device), self.scoring_batches
        )
        cut = self._cut(samples)
        self._watch.train_all_()

        with self._timed(seconds, "importance"):
            scores = cut.scored(samples, self.loss) if prune_ratio > 0 else {}
        with self._timed(seconds, "allocation"):
            chosen = cut.choose(scores, prune_ratio)
            if floor is not None and prune_ratio > 0:
                prune_ratio, chosen = cut.within(floor, validate, scores, prune_ratio, chosen)
        with self._timed(seconds, "snapshot"):  # only now that nothing of the cut can fail
            self.distillation.before_cut(self.model)
            if self.cache and self.cache.directory:
                self.cache.keep_network(self.cycles, self.model, self.masks)
        with self._timed(seconds, "downscale"):
            if prune_ratio >= 0 and (floor is None or prune_ratio):
                cut.downscale_()
        with self._timed(seconds, "cut"):
            gone = self._shrink_(chosen) if self.channels else self._mask_(chosen)
            self.cycles += 1  # whatever fails from here on, it has cut
        with self._timed(seconds, "evaluate_cut"):
            after_cut = evaluate(self.model) if evaluate else None
        with self._timed(seconds, "regrowth"):
            grown = dict.fromkeys(self.masks, 0)
            if regrow or prune_ratio < 0:
                grown = self._regrow(prune_ratio, samples, validate)
        with self._timed(seconds, "recovery"):
            if recover:
                recover()
                self._watch.train_only_(self._watch.free)  # from the weights of now on
        with self._timed(seconds, "replay"):
            drawn = getattr(self.replay, "batches", self.replay)
            losses = [] if loader is None else self._training.on(drawn(self.model, batches))
        with self._timed(seconds, "evaluate_replay"):
            changed = losses or any(grown.values()) or recover is not None
            after_replay = evaluate(self.model) if evaluate and changed else after_cut

        return CycleReport(
            cycle=self.cycles,
            ratio=prune_ratio,
            cut=gone,
            grown=grown,
            sparsity=self.sparsity,
            prunable_sparsity=self.prunable_sparsity,
            active_parameters=self.active_parameters,
            total_parameters=self.total_parameters,
            replay_steps=len(losses),
            replay_loss=float(torch.stack(losses).mean()) if losses else None,
            accuracy_after_cut=after_cut,
            accuracy_after_replay=after_replay,
            memory_examples=getattr(self.replay, "examples", 0),
            memory_bytes=getattr(self.replay, "bytes", 0),
            cache_bytes=self.cache.bytes if self.cache else 0,
            seconds=seconds,
            **self._left(),
        )

    def restore(
        self,
        cycles: Iterable[int] | int | None = None,
        *,
        names: Iterable[str] | None = None,
        share: float = 1.0,
    ) -> dict[str, int]:
        """Lets weights live again with the values that they were cut with; how many of each tensor.

        cycles: those cut by these cycles, counted from 1; by default by any. names: globs of
        tensors' names. share: so much of them, the greatest first. ValueError without a cache, or
        for what it does not hold.
        """
        if self.cache is None:
            raise ValueError("nothing that was cut is kept; give the refinement a cache")
        cycles = [cycles] if isinstance(cycles, int) else cycles
        marked, values = self.cache.restorable(self.masks, cycles, names, share)
        self.masks.grow_(marked, values)
        self._watch.train_only_(self._watch.free)  # from the weights of now on
        return {name: int(coming.sum()) for name, coming in marked.items() if name in self.masks}

    def end_task(self, loader: Iterable[Batch]) -> None:
        """To be called where a stream of data moves on to another task: the replay's memory keeps
        of ``loader``, the task's data, what it has room for."""
        if hasattr(self.replay, "begin_task"):
            self.replay.keep(self.model, OnDevice(loader, self.device))
            self.replay.begin_task()

    def sparsify(self, sparsity: float, allocation: Callable[..., dict[str, int]] = erk) -> None:
        """Cuts weights by lot until ``sparsity`` of the prunable ones are cut, as dynamic sparse
        training begins."""
        gone = round(sparsity * self.masks.prunable) - (self.masks.prunable - self.masks.surviving)
        if gone > 0:
            scores = score(random, self.model, (), self.loss, -1)
            ratio = (gone - 0.5) / (self.masks.surviving - 1)
            self.masks.cut_(self.masks.lowest(scores, allocation(scores, self.masks, ratio)))

    def begin_epoch(self) -> None:
        """To be called where an epoch begins by those whose importance (movement) or regrowth
        (only_epochs) counts epochs."""
        if hasattr(self.importance, "begin_epoch"):
            self.importance.begin_epoch()
        if self._only_epochs == 0:
            self._watch.train_all_()
        self._only_epochs -= 1

    def state_dict(self) -> dict[str, Any]:
        """What changes from cycle to cycle beside the network and its masks: tensors, numbers and
        text."""
        remembers = hasattr(self.importance, "state_dict")
        return {
            "cycles": self.cycles,
            "importance": self.importance.state_dict() if remembers else {},
            "regrowth": self.regrowth.state_dict(),
            "reference": vars(self.reference) if self.reference and self._own_reference else {},
            "distillation": self.distillation.state_dict(),
            "cache": self.cache.state_dict() if self.cache else {},
            "regularizer": self.regularizer.state_dict() if self.regularizer else {},
            "free": self._watch.free,
            "only_epochs": self._only_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state, of a network whose weights are already as they were."""
        self.cycles = state["cycles"]
        if state["importance"]:
            self.importance.load_state_dict(state["importance"])
        self.regrowth.load_state_dict(state["regrowth"])
        if state["reference"]:
            self.reference = Reference(**state["reference"])
        self.distillation.load_state_dict(state["distillation"], self.model)
        if self.cache:
            self.cache.load_state_dict(state["cache"])
        if self.regularizer:
            self.regularizer.load_state_dict(state["regularizer"])
        self._watch.train_only_(state["free"])
        self._only_epochs = state["only_epochs"]

    def reshape_(self, sizes: Mapping[str, Sequence[int]]) -> None:
        """Gives the model tensors of these sizes, by name, such as those of a smaller network that
        is to be loaded next. ValueError if they are of another network."""
        replaced = reshape_(self.model, sizes)
        if replaced:
            self.masks.reset_()
            self._watch.rebind_(replaced)
            if self.regularizer:
                self.regularizer.forget()

    def _cut(self, samples: Samples) -> Cut | ChannelCut:
        if self.channels is None:
            return Cut(
                self.model,
                self.masks,
                self.importance,
                self.allocation,
                self.granularity,
                self.downscale_factor,
                self.cycles,
            )
        if not self.channels.known:
            first = next(iter(samples), None)
            if first is None:
                raise ValueError("structured needs example inputs, or a loader with a batch")
            self.channels.look(first[0])
        self.channels.number = self.cycles
        return self.channels

    def _mask_(self, chosen: dict[str, Tensor]) -> dict[str, int]:
        """Cuts the marked weights; how many of each tensor."""
        if self.regrowth.by_reference and self.reference is None and not self._by_cache:
            self.reference = Reference.of(self.model, self.masks)
        self.regrowth.note_cut(self.masks, chosen)
        if self.cache:
            self.cache.note_cut(self.cycles + 1, self.masks, chosen)
        self.masks.cut_(chosen)
        self._watch.zero_moments_()
        return {name: int(marks.sum()) for name, marks in chosen.items()}

    def _shrink_(self, chosen: Plan | None) -> dict[str, int]:
        """Takes channels out, and what belongs to them out of all that goes with the network; how
        many weights of each prunable tensor."""
        if chosen is None:
            return {}
        before = {name: survivors(mask) for name, mask in self.masks.items()}
        self._watch.rebind_(smaller_(self.model, chosen.smaller))
        self.masks.shrink_(chosen.smaller)
        self.distillation.shrunk_(chosen.smaller)
        if self.regularizer:
            self.regularizer.shrunk_(self.model, chosen.smaller)
        for follow in self.shrinking:
            follow(chosen.smaller)
        gone = {name: count - survivors(self.masks[name]) for name, count in before.items()}
        return {name: count for name, count in gone.items() if count}

    def _left(self) -> dict[str, int]:
        """Of a report: channels and multiply-accumulates."""
        return {} if self.channels is None else self.channels.left_now()

    def _regrow(
        self,
        ratio: float,
        samples: Samples,
        validate: Callable[[nn.Module], float] | None,
    ) -> dict[str, int]:
        count = round(-ratio * self.masks.surviving) if ratio < 0 else None

        def reward(regrown: Regrown) -> float:
            if validate is None:
                raise ValueError("a controller needs validate, for accuracy on validation data")
            rate = self._training.optimizers()[0].param_groups[0]["lr"]
            return validate(
                trial(self.model, self.masks, regrown, samples, self.loss, self.trial_steps, rate)
            )

        reference = self.reference
        if self._by_cache and self.regrowth.by_reference:
            reference = self.cache.reference(self.model, self.masks)
        regrown = self.regrowth.regrow_(
            self.model, self.masks, samples, reference, self.loss, reward, count
        )
        if regrown.marked and self.regrowth.only_epochs:
            self._watch.train_only_(regrown.marked)
            self._only_epochs = self.regrowth.only_epochs
        return regrown.counts

    @contextmanager
    def _timed(self, seconds: dict[str, float], step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":  # a kernel that was started is not yet done
            torch.cuda.synchronize(self.device)
        seconds[step] = time.perf_counter() - start
