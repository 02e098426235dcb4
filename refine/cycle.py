"""What did one cycle do?"""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class CycleReport:
    """What one cycle did. Sparsities and accuracies are fractions; ``report["sparsity"]`` works.

    ``sparsity`` is of all parameters, as in the paper; ``prunable_sparsity`` of those that could
    be cut. ``cut`` and ``grown`` count the weights of each tensor, ``seconds`` has the time of each
    step. The accuracies are there if the cycle was given something to measure them with.
    ``memory_examples`` and ``memory_bytes`` are what the replay's memory holds, ``cache_bytes``
    what the cache does. Of a cut of channels, ``channels`` and ``macs`` (of one input) are left.
    """

    cycle: int
    ratio: float
    cut: dict[str, int]
    grown: dict[str, int]
    sparsity: float
    prunable_sparsity: float
    active_parameters: int
    total_parameters: int
    replay_steps: int
    replay_loss: float | None
    accuracy_after_cut: float | None
    accuracy_after_replay: float | None
    memory_examples: int
    memory_bytes: int
    cache_bytes: int
    seconds: dict[str, float]
    channels: int | None = None
    macs: int | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in {entry.name for entry in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)
