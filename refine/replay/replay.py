"""Which examples are kept for the end of a cycle, and in which batches are they replayed?"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.batches import Batch, Inputs, taken
from refine.evaluation.traceless import in_mode
from refine.objective import LossFunction
from refine.replay.batch import Replayed
from refine.replay.examined import Examined
from refine.replay.memory import Memory, Rows, columns
from refine.replay.priority import Priority, high_loss
from refine.replay.sampling import Draw, Sampling, shuffled
from refine.replay.storage import Storage, highest, persists, read_by


@dataclass
class Replay:
    """Keeps ``buffer_size`` examples to train on; by default those of highest loss.

    priority, storage, sampling: functions of the modules of these names. In every cycle the memory
        is filled anew in one pass over the data, unless the storage persists; then ``steps``
        batches are taken from it. At most twice ``buffer_size`` examples and a batch of the data
        are held at a time.
    loss: as in refine/objective.py; by default that of the refinement. autocast: the context of
        the scoring passes.
    alpha, beta: for ``proportional``; see sampling.py.
    stream: whether several tasks come one after another. The memory is then part of the state even
        before the first task ends.
    """

    priority: Priority = high_loss
    storage: Storage = highest
    sampling: Sampling = shuffled
    buffer_size: int = 1000
    steps: int = 30
    batch_size: int = 128
    seed: int = 0
    loss: LossFunction | None = None
    autocast: Callable[[], AbstractContextManager] = nullcontext
    alpha: float = 0.6
    beta: float = 0.4
    stream: bool = False
    generator: torch.Generator = field(init=False, repr=False)
    _memory: Memory = field(init=False, repr=False, compare=False, default_factory=Memory)

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.buffer_size < 1:
            raise ValueError("a replay needs steps from 0, buffer_size and batch_size from 1 on")
        self.generator = torch.Generator().manual_seed(self.seed)

    @property
    def examples(self) -> int:
        """How many are in memory."""
        return sum(len(part["targets"]) for part in self._memory.parts)

    @property
    def bytes(self) -> int:
        """How much memory these take."""
        return sum(column.nbytes for part in self._memory.parts for column in part.values())

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Replayed]:
        """Fills the memory from ``data``, batches on the model's device, and yields ``steps``
        batches from it."""
        if not self.steps:
            return
        self.keep(model, data)
        inputs, targets = self._memory.examples()

        def losses(places: Tensor) -> Tensor:
            where = places.to(targets.device)
            with in_mode(model, training=False), torch.no_grad():
                examined = self._examined(model, taken(inputs, where), targets[where])
                return _finite(examined.losses())

        size = min(self.batch_size, len(targets))
        draw = Draw(len(targets), size, self.steps, self.generator, losses, self.alpha, self.beta)
        for places, weights in self.sampling(draw):
            places = places.to(targets.device)
            weights = None if weights is None else weights.to(targets.device)
            yield Replayed(taken(inputs, places), targets[places], weights, places)

    def keep(self, model: nn.Module, data: Iterable[Batch]) -> None:
        """Only fills the memory, for a task that ends with no cycle due. Does nothing if there are
        no steps."""
        if self.steps:
            with in_mode(model, training=False), torch.no_grad():
                self._memory.fill(self._scored(model, data), self.storage, self.buffer_size)

    def rehearse(self, model: nn.Module, batch: Batch) -> None:
        """Does for one batch what a cycle does to fill the memory, and forgets it: what is wrong
        with the batch or the loss is found before anything is cut."""
        state = self.generator.get_state()
        with in_mode(model, training=False), torch.no_grad():
            Memory().fill(self._scored(model, [batch]), self.storage, self.buffer_size)
        self.generator.set_state(state)

    def begin_task(self) -> None:
        """Data of another task follows: what is in memory stays, and every task gets an equal share
        of the room. Nothing changes for a storage that persists."""
        if not persists(self.storage):
            self._memory.close()

    def state_dict(self) -> dict[str, Any]:
        """What the next cycle needs, as tensors and numbers; a memory that it fills anew is left
        out."""
        lasts = persists(self.storage) or self._memory.closed or self.stream
        return {
            "generator": self.generator.get_state(),
            "memory": self._memory.state_dict(current=bool(lasts)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings it to a ``state_dict``; tensors go to the data's device when it comes."""
        self.generator.set_state(state["generator"].cpu())
        self._memory.load_state_dict(state["memory"])

    def _scored(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Rows]:
        reads = read_by(self.storage)
        for inputs, targets in data:
            examined = self._examined(model, inputs, targets)
            rows = columns(inputs) | {"targets": targets}
            if "features" in reads:  # first: see Examined
                rows["features"] = F.normalize(_finite(examined.features()), dim=1)
            if "priorities" in reads:
                priorities = _finite(self.priority(examined, self.generator))
                if priorities.shape != (len(targets),):
                    raise ValueError("a replay priority gives no number for each example")
                rows["priorities"] = priorities
            if "draws" in reads:
                rows["draws"] = _draws(len(targets), self.generator)
            yield {name: column.to(targets.device) for name, column in rows.items()}

    def _examined(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Examined:
        return Examined(model, inputs, targets, self.generator, self.loss, self.autocast)


def _draws(count: int, generator: torch.Generator) -> Tensor:
    """Random numbers with a Gumbel distribution. Of a long stream only the highest stay; uniform
    ones are then so near to 1 that many are equal in single precision."""
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return -(-uniform.log()).log().float()


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise ValueError("a replay priority is not finite; has training diverged?")
    return values
