"""Which accuracy did sparse training end each of its stages with?"""

from collections.abc import Sequence
from typing import Any

from refine.records.rows import CycleRow, EpochRow


def stages(
    rows: Sequence[EpochRow | CycleRow], start: int, stop: int | None
) -> list[dict[str, Any]]:
    """The stages that a run reached, of: pretrained, sparse training, cut, fine-tuned.

    Its regularizer acted from epoch ``start`` to ``stop`` (None: until the last cut). Each stage
    comes with epoch, test accuracy, active parameters and, after a cut of channels,
    multiply-accumulates.
    """
    epochs = {row.epoch: row for row in rows if isinstance(row, EpochRow)}
    cycles = [row for row in rows if isinstance(row, CycleRow)]
    last = max(epochs, default=0)
    stop = min(stop or (cycles[-1].epoch if cycles else last), last)
    found = []
    if start in epochs:
        found.append(_measured("pretrained", epochs[start]))
    if stop > start:
        found.append(_measured("sparse training", epochs[stop]))
    if cycles and cycles[-1].test_accuracy_after_replay is not None:
        cut = cycles[-1]
        stage = _stage("cut", cut.epoch, cut.test_accuracy_after_replay, cut.active_parameters)
        found.append(stage if cut.macs is None else stage | {"macs": cut.macs})
        if last > cut.epoch:
            found.append(_measured("fine-tuned", epochs[last]))
    return found


def _measured(stage: str, row: EpochRow) -> dict[str, Any]:
    return _stage(stage, row.epoch, row.test_accuracy, row.active_parameters)


def _stage(name: str, epoch: int, accuracy: float | None, parameters: int) -> dict[str, Any]:
    return {
        "stage": name,
        "epoch": epoch,
        "test_accuracy": accuracy,
        "active_parameters": parameters,
    }
