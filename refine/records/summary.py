"""How did a run end, in figures?"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from refine.records.rows import CycleRow, EpochRow


def summary_of(
    rows: Sequence[EpochRow | CycleRow], counts: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The final figures: ``counts`` of the network as it is, accuracies as they were measured last.
    A cycle after the last epoch decides what it changed."""
    last = [row for row in rows if isinstance(row, EpochRow)][-1]
    final, validation = rows[-1], last.validation_accuracy
    accuracy, cut_last = last.test_accuracy, False
    if isinstance(final, CycleRow) and final.test_accuracy_after_replay is not None:
        accuracy, validation, cut_last = final.test_accuracy_after_replay, None, True
    return {
        "status": None,  # as it ends
        "reason": None,
        "epochs": last.epoch,
        "cycles": counts["cycles"],
        "test_accuracy": accuracy,
        "validation_accuracy": validation,
        "train_accuracy": last.train_accuracy,
        "train_loss": last.train_loss,
        "sparsity": counts["sparsity"],
        "prunable_sparsity": counts["prunable_sparsity"],
        "active_parameters": counts["active_parameters"],
        "total_parameters": counts["total_parameters"],
        "compression": counts["total_parameters"] / counts["active_parameters"],
        "seconds": seconds,
        **({} if last.forgetting is None or cut_last else {"forgetting": last.forgetting}),
        "last_epoch": asdict(last),
    }
