"""How is a network trained and refined?

``train`` is the one epoch loop; it yields a row for each epoch and for each cycle.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from refine.datasets.images import Loader
from refine.datasets.prepare import Data
from refine.device import Precision
from refine.errors import TrainingError
from refine.evaluation.accuracy import accuracy
from refine.refinement import RuntimeRefinement
from refine.rows import CycleRow, EpochRow

ADVICE = "a lower trainer.optimizer.lr or trainer.precision=fp32 may help"
CHECK_EVERY = 50  # steps between looks at the losses: a look waits for the GPU


class Schedule(Protocol):
    """What refine/schedule.py offers."""

    def due(self, epoch: int) -> float | None:
        """The ratio to cut after ``epoch``, if any."""


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
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Iterator[EpochRow | CycleRow]:
    """Trains ``model`` and yields what was measured: an EpochRow after each epoch and, where
    ``schedule`` has a cycle due, a CycleRow after it.

    scheduler_per: "batch" or "epoch", how often ``lr_scheduler`` is stepped; replay never does.
    generator: order and augmentation of the training images.
    on_step: told the step of the epoch and their number, for a progress bar.

    TrainingError, with epoch and step, when a loss is no longer finite.
    """
    loader = data.training(batch_size, generator)
    plain, test = data.plain(data.train), data.plain(data.test)
    validation = data.validation and data.plain(data.validation)

    def score(batches: Loader):
        return accuracy(model, batches, stepper.precision.autocast)

    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        losses, right, seen = [], [], 0
        model.train()
        for step, (images, labels) in enumerate(loader, 1):
            loss, correct = stepper(images, labels)
            losses.append(loss)
            right.append(correct)
            seen += len(labels)
            rate = stepper.optimizer.param_groups[0]["lr"]
            if scheduler_per == "batch":
                lr_scheduler.step()
            if step % CHECK_EVERY == 0 or step == len(loader):
                _check(losses, epoch)
            on_step(step, len(loader))
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise TrainingError(f"the weights are no longer finite after epoch {epoch}; {ADVICE}")
        if scheduler_per == "epoch":
            lr_scheduler.step()

        tested, validated = score(test), validation and score(validation)
        row = EpochRow(
            epoch=epoch,
            train_loss=float(torch.stack(losses).mean()),
            train_accuracy=int(torch.stack(right).sum()) / seen,
            test_loss=tested.loss,
            test_accuracy=tested.accuracy,
            sparsity=refinement.sparsity,
            prunable_sparsity=refinement.prunable_sparsity,
            active_parameters=refinement.active_parameters,
            total_parameters=refinement.total_parameters,
            learning_rate=rate,
            cycles=refinement.cycles,
            epoch_seconds=time.perf_counter() - start,
            validation_loss=validated.loss if validated else None,
            validation_accuracy=validated.accuracy if validated else None,
        )
        yield row

        if (ratio := schedule.due(epoch)) is not None:
            try:
                report = refinement.refinement_cycle(plain, ratio, lambda _: score(test).accuracy)
            except Exception as error:  # also what a user's own importance raises
                raise TrainingError(f"the cycle after epoch {epoch} failed: {error}") from error
            yield CycleRow(
                cycle=report.cycle,
                epoch=epoch,
                ratio=ratio,
                cut_weights=sum(report.cut.values()),
                cut_by_tensor=json.dumps(report.cut),
                sparsity=report.sparsity,
                prunable_sparsity=report.prunable_sparsity,
                active_parameters=report.active_parameters,
                total_parameters=report.total_parameters,
                test_accuracy_before=row.test_accuracy,
                test_accuracy_after_cut=report.accuracy_after_cut,
                test_accuracy_after_replay=report.accuracy_after_replay,
                replay_steps=report.replay_steps,
                replay_loss=report.replay_loss,
                importance_seconds=report.seconds["importance"],
                downscale_seconds=report.seconds["downscale"],
                cut_seconds=report.seconds["allocation"] + report.seconds["cut"],
                replay_seconds=report.seconds["replay"],
            )


def _check(losses: list[Tensor], epoch: int) -> None:
    finite = torch.stack(losses[-CHECK_EVERY:]).isfinite().tolist()
    if not all(finite):
        step = max(0, len(losses) - CHECK_EVERY) + finite.index(False) + 1
        raise TrainingError(
            f"the loss is no longer a number in epoch {epoch}, step {step}; {ADVICE}"
        )
