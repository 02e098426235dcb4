"""What does a replay give, and what else must it be able to do?"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from refine.batches import Batch, Inputs


class Replayed(NamedTuple):
    """Examples to train on in one step.

    weights: of each example's loss, to correct for how often it is drawn; None: all 1.
    places: where each stands in this cycle's memory, int64: the same place is the same example
        throughout one call of ``batches``; None: new examples, which never come again.
    """

    inputs: Inputs
    targets: Tensor
    weights: Tensor | None = None
    places: Tensor | None = None


ReplayBatches = Callable[[nn.Module, Iterable[Batch]], Iterator[Batch | Replayed]]


@runtime_checkable
class ReplaySource(Protocol):
    """What a cycle trains on after its cut, and what is kept for that from cycle to cycle."""

    @property
    def examples(self) -> int:
        """How many examples are kept."""

    @property
    def bytes(self) -> int:
        """How much memory what is kept takes."""

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Batch | Replayed]:
        """Keeps what is worth it of ``data``, batches on the model's device, and yields a batch for
        each step to train."""

    def keep(self, model: nn.Module, data: Iterable[Batch]) -> None:
        """Only keeps, for a task that ends with no cycle due."""

    def begin_task(self) -> None:
        """Data of another task follows."""

    def state_dict(self) -> dict[str, Any]:
        """What the next cycle needs, as tensors and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings it to a ``state_dict``."""


class PlainReplay:
    """Makes a function ``(model, batches) -> iterator of batches`` a ReplaySource that keeps
    nothing."""

    examples = 0
    bytes = 0

    def __init__(self, function: ReplayBatches):
        self.function = function

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Batch | Replayed]:
        """The function's batches."""
        return self.function(model, data)

    def keep(self, model: nn.Module, data: Iterable[Batch]) -> None:
        """Nothing."""

    def begin_task(self) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def as_replay(given: ReplaySource | ReplayBatches) -> ReplaySource:
    """``given`` as a ReplaySource: a plain function is wrapped."""
    if isinstance(given, ReplaySource):
        return given
    if not callable(given):
        raise TypeError(
            f"the replay {given!r:.60} is no function, and lacks some of examples, bytes, batches, "
            "keep, begin_task, state_dict, load_state_dict"
        )
    return PlainReplay(given)
