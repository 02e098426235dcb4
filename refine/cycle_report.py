"""What did a cycle do?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, eq=False)
class CycleReport(Mapping[str, Any]):
    """What one cycle did. Sparsities and accuracies are fractions. It is a mapping as well:
    ``report["sparsity"]``, ``dict(report)``.

    ``sparsity`` is of all parameters, as in the paper; ``prunable_sparsity`` of those that could
    be cut. ``cut`` and ``grown`` count the weights of each tensor, ``seconds`` has the time of each
    step by its name. The accuracies are None unless the cycle was given a function to measure
    them. ``memory_examples`` and ``memory_bytes`` are the size of the replay's memory,
    ``cache_bytes`` that of the cache. After a cut of channels, ``channels`` and ``macs`` (for one
    input) are left.
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

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in fields(self))

    def __len__(self) -> int:
        return len(fields(self))
