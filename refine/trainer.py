"""How is a network trained and refined?

``train`` is the one epoch loop; it yields a row for each epoch and for each cycle.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from refine.batches import Batch
from refine.datasets.images import Loader
from refine.datasets.prepare import Data
from refine.device import Precision
from refine.errors import TrainingError
from refine.evaluation.accuracy import accuracy
from refine.randomness import random_state, set_random_state
from refine.refinement import CycleReport, RuntimeRefinement
from refine.rows import CycleRow, EpochRow

ADVICE = "a lower trainer.optimizer.lr or trainer.precision=fp32 may help"
CHECK_EVERY = 50  # steps between looks at the losses: a look waits for the GPU


class Schedule(Protocol):
    """What refine/schedule.py offers."""

    by: str  # "epoch" or "step"
    grows: bool  # says itself when weights grow back

    def due(self, at: int, surviving: int) -> float | None:
        """The share of the ``surviving`` weights to cut after the epoch or step, if any."""


@dataclass
class Stepper:
    """One training step: of an epoch and of a replay alike, but that only epochs move the rate."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    label_smoothing: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Trains on a batch; its mean loss and the number of right answers, on the device."""
        with self.precision.autocast():
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad()
        self.precision.backward(loss)
        self.precision.step(self.optimizer)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()


@dataclass
class Position:
    """Where training is, between two steps: ``train`` moves it, and goes on from where it is.

    epoch: epochs measured, the last with ``test_accuracy``; cycled: no cycle is left to do after
    it; best_validation: the greatest validation accuracy so far. step: steps done of the next
    epoch on ``seen`` images, which gave ``losses`` and ``right`` and took ``seconds``, the last at
    ``rate``; order: the state of the images' generator as that epoch began, random: that of the
    process's own generators. in_cycle: the network is being cut or replayed; only then it cannot go
    on from here.
    """

    epoch: int = 0
    test_accuracy: float | None = None
    best_validation: float | None = None
    cycled: bool = False
    step: int = 0
    seen: int = 0
    rate: float = 0.0
    losses: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    order: Tensor | None = None
    random: dict | None = None
    in_cycle: bool = False


def train(
    model: nn.Module,
    data: Data,
    *,
    stepper: Stepper,
    lr_scheduler: LRScheduler,
    scheduler_per: str,
    refinement: RuntimeRefinement,
    schedule: Schedule,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    scoring: Callable[[int], Iterable[Batch]],
    tolerance: float | None = None,
    position: Position | None = None,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Iterator[EpochRow | CycleRow]:
    """Trains ``model`` and yields what was measured: an EpochRow after each epoch and, where
    ``schedule`` has a cycle due, a CycleRow after it.

    scheduler_per: "batch" or "epoch", how often ``lr_scheduler`` is stepped; replay never does.
    generator: order and augmentation of the training images.
    scoring: the batches on which the cycle of that number scores weights.
    tolerance: how far below its best so far a cut may bring the validation accuracy.
    position: where to begin, with ``model`` and the others as they were there; moved on.
    on_step: told the step of the epoch and their number, for a progress bar; may raise Stop.

    TrainingError, with epoch and step, when a loss is no longer finite.
    """
    at = position or Position()
    loader = data.training(batch_size, generator)
    plain, test = data.plain(data.train), data.plain(data.test)
    validation = data.validation and data.plain(data.validation)

    def score(batches: Loader, network: nn.Module = model):
        return accuracy(network, batches, stepper.precision.autocast)

    def cycle(ratio: float) -> Iterator[CycleRow]:
        by_epoch = at.step == 0
        if by_epoch and at.test_accuracy is None:  # before the first epoch
            at.test_accuracy = score(test).accuracy
        if tolerance is not None and at.best_validation is None:
            at.best_validation = score(validation).accuracy
        at.in_cycle = True
        try:
            report = refinement.refinement_cycle(
                plain,
                ratio,
                evaluate=(lambda _: score(test).accuracy) if by_epoch else None,
                scoring=scoring(refinement.cycles + 1),
                validate=validation and (lambda network: score(validation, network).accuracy),
                regrow=not schedule.grows,
                floor=None if tolerance is None else at.best_validation - tolerance,
            )
        except Exception as error:  # also what a user's own importance raises
            where = f"epoch {at.epoch}" + ("" if by_epoch else f", step {at.step}")
            raise TrainingError(f"the cycle after {where} failed: {error}") from error
        at.in_cycle, at.cycled = False, by_epoch
        yield _cycle_row(report, at, at.epoch * len(loader) + at.step)

    def after_epoch() -> Iterator[CycleRow]:
        if cycle_follows(at, schedule, refinement):
            yield from cycle(schedule.due(at.epoch, refinement.masks.surviving))
        at.cycled = True

    yield from after_epoch()
    for epoch in range(at.epoch + 1, epochs + 1):
        start = time.perf_counter() - at.seconds
        if at.order is None:
            at.order, at.random = generator.get_state(), random_state()
            refinement.begin_epoch()
        elif at.step:  # the batches of its first steps are drawn once more, to get to the next
            generator.set_state(at.order)
            now = random_state()
            set_random_state(at.random)
        model.train()
        for step, (images, labels) in enumerate(loader, 1):
            if step <= at.step:
                if step == at.step:
                    set_random_state(now)
                continue
            loss, correct = stepper(images, labels)
            at.losses.append(loss)
            at.right.append(correct)
            at.seen += len(labels)
            at.rate = stepper.optimizer.param_groups[0]["lr"]
            if scheduler_per == "batch":
                lr_scheduler.step()
            if step % CHECK_EVERY == 0 or step == len(loader):
                _check(at.losses, epoch)
            at.step = step
            if schedule.by == "step":
                done = (epoch - 1) * len(loader) + step
                ratio = schedule.due(done, refinement.masks.surviving)
                if ratio is not None:
                    yield from cycle(ratio)
                    model.train()
            at.seconds = time.perf_counter() - start
            on_step(step, len(loader))
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise TrainingError(f"the weights are no longer finite after epoch {epoch}; {ADVICE}")
        if scheduler_per == "epoch":
            lr_scheduler.step()

        tested, validated = score(test), validation and score(validation)
        row = EpochRow(
            epoch=epoch,
            train_loss=float(torch.stack(at.losses).mean()),
            train_accuracy=int(torch.stack(at.right).sum()) / at.seen,
            test_loss=tested.loss,
            test_accuracy=tested.accuracy,
            sparsity=refinement.sparsity,
            prunable_sparsity=refinement.prunable_sparsity,
            active_parameters=refinement.active_parameters,
            total_parameters=refinement.total_parameters,
            learning_rate=at.rate,
            cycles=refinement.cycles,
            epoch_seconds=time.perf_counter() - start,
            validation_loss=validated.loss if validated else None,
            validation_accuracy=validated.accuracy if validated else None,
        )
        best = max(at.best_validation or 0.0, validated.accuracy) if validated else None
        vars(at).update(vars(Position(epoch, tested.accuracy, best)))
        yield row
        yield from after_epoch()


def cycle_follows(at: Position, schedule: Schedule, refinement: RuntimeRefinement) -> bool:
    """Whether a cycle is left to do after the epoch that was measured last."""
    if at.cycled or (schedule.by == "step" and at.epoch > 0):
        return False
    return schedule.due(at.epoch, refinement.masks.surviving) is not None


def _cycle_row(report: CycleReport, at: Position, step: int) -> CycleRow:
    measured = report.accuracy_after_cut is not None
    return CycleRow(
        cycle=report.cycle,
        epoch=at.epoch,
        ratio=report.ratio,
        cut_weights=sum(report.cut.values()),
        cut_by_tensor=json.dumps(report.cut),
        sparsity=report.sparsity,
        prunable_sparsity=report.prunable_sparsity,
        active_parameters=report.active_parameters,
        total_parameters=report.total_parameters,
        test_accuracy_before=at.test_accuracy if measured else None,
        test_accuracy_after_cut=report.accuracy_after_cut,
        test_accuracy_after_replay=report.accuracy_after_replay,
        replay_steps=report.replay_steps,
        replay_loss=report.replay_loss,
        importance_seconds=report.seconds["importance"],
        downscale_seconds=report.seconds["downscale"],
        cut_seconds=report.seconds["allocation"] + report.seconds["cut"],
        replay_seconds=report.seconds["replay"],
        step=step,
        grown_weights=sum(report.grown.values()),
        grown_by_tensor=json.dumps(report.grown),
        regrowth_seconds=report.seconds["regrowth"],
    )


def _check(losses: list[Tensor], epoch: int) -> None:
    finite = torch.stack(losses[-CHECK_EVERY:]).isfinite().tolist()
    if not all(finite):
        step = max(0, len(losses) - CHECK_EVERY) + finite.index(False) + 1
        raise TrainingError(
            f"the loss is no longer a number in epoch {epoch}, step {step}; {ADVICE}"
        )
