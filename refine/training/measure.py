"""How good is the network on all tasks so far, and which rows record it?"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refine.cycle import CycleReport
from refine.datasets.prepare import Data
from refine.evaluation.accuracy import Score, accuracy
from refine.evaluation.forgetting import average_accuracy, forgetting
from refine.records.rows import CycleRow, EpochRow
from refine.refinement import RuntimeRefinement
from refine.training.position import Position


@dataclass(frozen=True)
class Measured:
    """Scores over the images of all tasks so far, and the test accuracy on each of them."""

    test: Score
    validation: Score | None
    by_task: list[float]


@dataclass(frozen=True)
class Measuring:
    """Measures in the precision of ``autocast``; ``tasks`` are the tasks so far."""

    autocast: Callable[[], AbstractContextManager]

    def all(self, model: nn.Module, tasks: list[Data]) -> Measured:
        """Everything that an epoch records."""
        scores = self._scores(model, tasks, "test")
        return Measured(
            _together(scores, tasks, "test"),
            self.validation(model, tasks),
            [score.accuracy for score in scores],
        )

    def test(self, model: nn.Module, tasks: list[Data]) -> Score:
        """On the test images."""
        return _together(self._scores(model, tasks, "test"), tasks, "test")

    def validation(self, model: nn.Module, tasks: list[Data]) -> Score | None:
        """On the validation images, if there are any."""
        if tasks[0].validation is None:
            return None
        return _together(self._scores(model, tasks, "validation"), tasks, "validation")

    def _scores(self, model: nn.Module, tasks: list[Data], part: str) -> list[Score]:
        return [accuracy(model, task.plain(getattr(task, part)), self.autocast) for task in tasks]


def _together(scores: list[Score], tasks: list[Data], part: str) -> Score:
    if len(scores) == 1:
        return scores[0]
    counts = [len(getattr(task, part)) for task in tasks]
    pairs = list(zip(scores, counts, strict=True))
    return Score(
        sum(score.loss * count for score, count in pairs) / sum(counts),
        sum(score.accuracy * count for score, count in pairs) / sum(counts),
    )


def epoch_row(
    epoch: int,
    at: Position,
    measured: Measured,
    refinement: RuntimeRefinement,
    tasks: int,
    seconds: float,
) -> EpochRow:
    """The row of the epoch that ends at the position ``at``, in a course of ``tasks`` tasks."""
    validation = measured.validation
    stream: dict[str, Any] = {}
    if tasks > 1:
        stream = {
            "task": at.task + 1,
            "average_accuracy": average_accuracy(measured.by_task),
            "forgetting": forgetting(measured.by_task, at.ended),
            "task_accuracies": json.dumps(measured.by_task),
        }
    return EpochRow(
        epoch=epoch,
        train_loss=float(torch.stack(at.losses).mean()),
        train_accuracy=int(torch.stack(at.right).sum()) / at.seen,
        test_loss=measured.test.loss,
        test_accuracy=measured.test.accuracy,
        sparsity=refinement.sparsity,
        prunable_sparsity=refinement.prunable_sparsity,
        active_parameters=refinement.active_parameters,
        total_parameters=refinement.total_parameters,
        learning_rate=at.rate,
        cycles=refinement.cycles,
        epoch_seconds=seconds,
        validation_loss=validation.loss if validation else None,
        validation_accuracy=validation.accuracy if validation else None,
        **stream,
    )


def cycle_row(report: CycleReport, at: Position, step: int) -> CycleRow:
    """The row of a cycle after the training ``step`` of the run."""
    measured, seconds = report.accuracy_after_cut is not None, report.seconds
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
        importance_seconds=seconds.get("score", 0.0),
        downscale_seconds=seconds.get("downscale", 0.0),
        cut_seconds=seconds.get("choose", 0.0) + seconds.get("cut", 0.0),
        replay_seconds=seconds.get("replay", 0.0),
        step=step,
        grown_weights=sum(report.grown.values()),
        grown_by_tensor=json.dumps(report.grown),
        regrowth_seconds=seconds.get("regrow", 0.0),
        memory_examples=report.memory_examples,
        memory_bytes=report.memory_bytes,
        cache_bytes=report.cache_bytes,
        channels=report.channels,
        macs=report.macs,
    )
