"""Which row do an epoch and a cycle leave?"""

import json
from typing import Any

import torch

from refine.cycle import CycleReport
from refine.evaluation.forgetting import average_accuracy, forgetting
from refine.records.rows import CycleRow, EpochRow
from refine.refinement import RuntimeRefinement
from refine.training.measure import Measured
from refine.training.position import Position


def epoch_row(
    epoch: int,
    at: Position,
    measured: Measured,
    refinement: RuntimeRefinement,
    tasks: int,
    seconds: float,
) -> EpochRow:
    """The row of the epoch that ends at the position ``at``, of a course of so many ``tasks``."""
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
