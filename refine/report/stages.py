"""What accuracy does each stage of sparse training end with?"""

from collections.abc import Sequence
from typing import Any

from refine.records.rows import CycleRow, EpochRow


def stages(
    rows: Sequence[EpochRow | CycleRow], start: int, stop: int | None
) -> list[dict[str, Any]]:
    """Of a run whose regularizer acted from epoch ``start`` to ``stop``, by default until its last
    cut: the stages that it came to (pretrained, sparse training, cut, fine-tuned), each with epoch,
    test accuracy, parameters and, where channels went, multiply-accumulates."""
    epochs = {row.epoch: row for row in rows if isinstance(row, EpochRow)}
    cycles = [row for row in rows if isinstance(row, CycleRow)]
    last = max(epochs, default=0)
    ended = stop or (cycles[-1].epoch if cycles else last)
    stop = min(ended, last)
    found = []
    if start in epochs:
        found.append(_of("pretrained", epochs[start]))
    if stop > start:
        found.append(_of("sparse training", epochs[stop]))
    if cycles and cycles[-1].test_accuracy_after_replay is not None:
        cut = cycles[-1]
        found.append(
            {
                "stage": "cut",
                "epoch": cut.epoch,
                "test_accuracy": cut.test_accuracy_after_replay,
                "active_parameters": cut.active_parameters,
                **({} if cut.macs is None else {"macs": cut.macs}),
            }
        )
        if last > cut.epoch:
            found.append(_of("fine-tuned", epochs[last]))
    return found


def _of(stage: str, row: EpochRow) -> dict[str, Any]:
    return {
        "stage": stage,
        "epoch": row.epoch,
        "test_accuracy": row.test_accuracy,
        "active_parameters": row.active_parameters,
    }
