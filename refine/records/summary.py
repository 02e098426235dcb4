"""What are the final figures of a run, and how did it end?"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from refine.errors import Stop
from refine.records.rows import CycleRow, EpochRow


def summary_of(
    rows: Sequence[EpochRow | CycleRow], counts: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The final figures: ``counts`` of the present network, and the accuracies measured last. A
    cycle after the last epoch replaces those of the epoch."""
    last = [row for row in rows if isinstance(row, EpochRow)][-1]
    final, validation = rows[-1], last.validation_accuracy
    accuracy, cut_last = last.test_accuracy, False
    if isinstance(final, CycleRow) and final.test_accuracy_after_replay is not None:
        accuracy, validation, cut_last = final.test_accuracy_after_replay, None, True
    return {
        "status": None,  # set when the run ends
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


def ending(stopped: BaseException | None) -> dict[str, Any]:
    """The status of a run that has ended, and the reason if something has stopped it."""
    if stopped is None:
        return {"status": "finished", "reason": None}
    interrupted = isinstance(stopped, KeyboardInterrupt)
    status = "interrupted" if interrupted else "failed"
    if isinstance(stopped, Stop):
        status = stopped.status
    reason = str(stopped) or ("interrupted" if interrupted else repr(stopped))
    return {"status": status, "reason": reason}
