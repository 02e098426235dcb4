"""What happens in a refinement cycle?

Importance, downscale, cut, zero the moments of what was cut, replay. ``RuntimeRefinement`` does
this in anybody's training loop and keeps what it cut at zero from then on.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from refine.evaluation.accuracy import in_mode
from refine.masks import Masks
from refine.optimizer_watch import fallback, needs_closure, watch
from refine.pruning.allocation import layerwise
from refine.pruning.importance import magnitude
from refine.replay import Batch, Replay

ReplayBatches = Callable[[nn.Module, Iterable[Batch]], Iterator[Batch]]


@dataclass(frozen=True)
class CycleReport:
    """What one cycle did. Sparsities and accuracies are fractions; ``report["sparsity"]`` works.

    ``sparsity`` is of all parameters, as in the paper; ``prunable_sparsity`` of those that could
    be cut. ``cut`` counts the weights cut from each tensor now, ``seconds`` the time of each step.
    The accuracies are there if the cycle was given something to measure them with.
    """

    cycle: int
    ratio: float
    cut: dict[str, int]
    sparsity: float
    prunable_sparsity: float
    active_parameters: int
    total_parameters: int
    replay_steps: int
    replay_loss: float | None
    accuracy_after_cut: float | None
    accuracy_after_replay: float | None
    seconds: dict[str, float]

    def __getitem__(self, name: str) -> Any:
        if name not in {entry.name for entry in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)


class RuntimeRefinement:
    """Refines a network while somebody trains it.

    >>> refinement = RuntimeRefinement(model)
    >>> report = refinement.refinement_cycle(loader, prune_ratio=0.15)   # now and then

    From the first cycle on, every step of any torch optimizer leaves cut weights at exactly 0.0,
    whatever its momentum or weight decay; the optimizer need not be shown, and this object need
    not be kept: the masks live as long as the model, and a second RuntimeRefinement of the same
    model goes on with them. After other changes of the weights, such as ``load_state_dict``, call
    ``masks.zero_cut_()``. A deep copy of the model has no masks.

    importance: ``(model, batches) -> {name: scores}``, lowest first to go.
    allocation: ``(scores, masks, ratio) -> {name: how many of its survivors go}``.
    replay: ``(model, batches) -> iterator of (inputs, targets)`` to train on after the cut; by
        default ``Replay().batches``, 30 batches of 128 from the 1,000 inputs of highest loss;
        ``Replay(steps=0).batches`` for none.
    downscale_factor: the prunable weights are multiplied by it before the cut.
    loss: ``(outputs, targets) -> scalar``, and a number per element with ``reduction="none"``, as
        the losses of torch.nn.functional do; the default replay ranks its inputs by it.
    optimizer: takes the replay steps. By default the optimizers that trained the model so far, at
        their present learning rates; Adam at 0.001 where none has stepped yet.
    step: ``(inputs, targets) -> loss`` is one whole replay step, in place of loss and optimizer.
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
        replay: ReplayBatches | None = None,
        downscale_factor: float = 0.98,
        loss: Callable[..., Tensor] = F.cross_entropy,
        optimizer: Optimizer | None = None,
        step: Callable[[Tensor, Tensor], Tensor] | None = None,
        prunable: Iterable[str] | None = None,
        device: torch.device | str | None = None,
    ):
        self.model = model
        self._watch = watch(model, prunable)
        self.masks: Masks = self._watch.masks
        self.cycles = 0
        self.importance, self.allocation = importance, allocation
        self.replay = replay or Replay(loss=loss).batches
        self.downscale_factor = downscale_factor
        self.loss, self.step = loss, step
        self._device = device
        self._optimizer = optimizer

    @property
    def device(self) -> torch.device:
        """Where batches are brought to."""
        return torch.device(self._device or next(self.model.parameters()).device)

    @property
    def total_parameters(self) -> int:
        """All parameters of the model, also those that are never cut."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def active_parameters(self) -> int:
        """The parameters less the weights that were cut."""
        return self.total_parameters - (self.masks.prunable - self.masks.surviving)

    @property
    def sparsity(self) -> float:
        """Share of all parameters that was cut."""
        return 1 - self.active_parameters / self.total_parameters

    @property
    def prunable_sparsity(self) -> float:
        """Share of the prunable weights that was cut."""
        return 1 - self.masks.surviving / self.masks.prunable

    def refinement_cycle(
        self,
        loader: Iterable[Batch] | None = None,
        prune_ratio: float = 0.15,
        evaluate: Callable[[nn.Module], float] | None = None,
    ) -> CycleReport:
        """One cycle: importance, downscale, cut, moments, replay.

        loader: batches of (inputs, targets), iterable more than once (a DataLoader, a list), for
            scores that need data and for the replay; without it there is no replay.
        prune_ratio: share of the surviving weights to cut, at least 0 and below 1.
        evaluate: measures the accuracy after the cut and after the replay, for the report.

        ValueError if the ratio is out of range or a score is not a number; then the weights stay
        as they are.
        """
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio must be at least 0 and below 1, not {prune_ratio}")
        batches = OnDevice(() if loader is None else loader, self.device)
        seconds: dict[str, float] = {}

        with self._timed(seconds, "importance"), in_mode(self.model, training=False):
            scores = self.importance(self.model, batches)
        with self._timed(seconds, "allocation"):
            counts = self.allocation(scores, self.masks, prune_ratio) if prune_ratio else {}
            marked = self.masks.lowest(scores, counts)
        with self._timed(seconds, "downscale"):  # only now that nothing of the cut can fail
            self._downscale_()
        with self._timed(seconds, "cut"):
            self.masks.cut_(marked)
            self._watch.zero_moments_()
        with self._timed(seconds, "evaluate_cut"):
            after_cut = evaluate(self.model) if evaluate else None
        with self._timed(seconds, "replay"):
            losses = [] if loader is None else self._replay(batches)
        with self._timed(seconds, "evaluate_replay"):
            after_replay = evaluate(self.model) if evaluate and losses else after_cut

        self.cycles += 1
        return CycleReport(
            cycle=self.cycles,
            ratio=prune_ratio,
            cut=dict(counts),
            sparsity=self.sparsity,
            prunable_sparsity=self.prunable_sparsity,
            active_parameters=self.active_parameters,
            total_parameters=self.total_parameters,
            replay_steps=len(losses),
            replay_loss=float(torch.stack(losses).mean()) if losses else None,
            accuracy_after_cut=after_cut,
            accuracy_after_replay=after_replay,
            seconds=seconds,
        )

    @torch.no_grad()
    def _downscale_(self) -> None:
        if self.downscale_factor != 1:
            for weight in self.masks.weights().values():
                weight.mul_(self.downscale_factor)

    def _replay(self, batches: "OnDevice") -> list[Tensor]:
        losses = []
        for inputs, targets in self.replay(self.model, batches):
            with in_mode(self.model, training=True):
                losses.append((self.step or self._step)(inputs, targets).detach())
        return losses

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        def loss() -> Tensor:
            self.model.zero_grad()
            value = self.loss(self.model(inputs), targets)
            value.backward()
            return value

        optimizers = self._optimizers()
        value = loss()
        for optimizer in optimizers:
            optimizer.step(loss) if needs_closure(optimizer) else optimizer.step()
        for trained in (self.model, *optimizers):  # leave no gradient to the user's next step
            trained.zero_grad()
        return value

    @contextmanager
    def _timed(self, seconds: dict[str, float], step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":  # a kernel that was started is not yet done
            torch.cuda.synchronize(self.device)
        seconds[step] = time.perf_counter() - start

    def _optimizers(self) -> list[Optimizer]:
        if self._optimizer is not None:
            return [self._optimizer]
        if not self._watch.trainers():
            self._first = fallback(list(self.model.parameters()))
            return [self._first]
        return self._watch.trainers()


class OnDevice:
    """A loader whose batches come out on ``device``, pass after pass."""

    def __init__(self, loader: Iterable[Batch], device: torch.device):
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets in self.loader:
            yield inputs.to(self.device), targets.to(self.device)
