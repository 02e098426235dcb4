"""Under which names do trackers show the numbers of a row?"""

from dataclasses import asdict

from refine.records.rows import CycleRow, EpochRow

NAMES = {
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "validation_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "validation_accuracy": "accuracy/validation",
    "sparsity": "sparsity/all",
    "prunable_sparsity": "sparsity/prunable",
}


def numbers(row: EpochRow | CycleRow, sparsities: dict[str, float]) -> dict[str, float]:
    """The measured numbers by name; ``sparsities``: of each prunable tensor.

    An epoch and the cycle after it have the same step but no name in common.
    """
    cycle = isinstance(row, CycleRow)
    found = {
        f"cycle/{name}" if cycle else NAMES.get(name, name): value
        for name, value in asdict(row).items()
        if name not in ("epoch", "cycle") and isinstance(value, int | float)
    }
    layers = "layer_sparsity_after_cycle" if cycle else "layer_sparsity"
    return found | {f"{layers}/{name}": value for name, value in sparsities.items()}
