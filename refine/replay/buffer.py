"""How does one fill a replay's memory oneself, with priorities of one's own?"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refine.batches import Batch, each_tensor, split, taken
from refine.replay.batch import Replayed
from refine.replay.memory import Memory, columns


class PrioritizedReplayBuffer:
    """The ``capacity`` examples of highest priority of all that were added.

    >>> buffer = PrioritizedReplayBuffer(capacity=1000)
    >>> buffer.add((images, labels), priorities=losses)
    >>> refinement = RuntimeRefinement(model, replay=buffer)

    A cycle's replay takes ``steps`` batches from it, each example with a probability in proportion
    to priority^alpha (Schaul et al. 2016, arXiv:1511.05952), with replacement; its data are not
    looked at. ValueError for a priority that is negative or not finite, and if nothing was added
    before the first replay.
    """

    def __init__(
        self,
        capacity: int,
        *,
        steps: int = 30,
        batch_size: int = 128,
        alpha: float = 0.6,
        seed: int = 0,
    ):
        if capacity < 1 or steps < 0 or batch_size < 1:
            raise ValueError("capacity and batch_size must be from 1 on, steps from 0")
        self.capacity, self.steps, self.batch_size, self.alpha = capacity, steps, batch_size, alpha
        self.generator = torch.Generator().manual_seed(seed)
        self._memory = Memory()

    def __len__(self) -> int:
        return self.examples

    @property
    def examples(self) -> int:
        """How many are in it."""
        return len(self._memory.current.get("targets", ()))

    @property
    def bytes(self) -> int:
        """How much memory these take."""
        return sum(column.nbytes for column in self._memory.current.values())

    def add(self, examples: Any, priorities: Tensor | Sequence[float] | None = None) -> None:
        """Adds a batch, or a list of (input, target) pairs, with a number for each example; by
        default 1 for all. Those of lowest priority leave where there are too many."""
        inputs, targets = split(_batch(examples))
        given = torch.ones(len(targets)) if priorities is None else torch.as_tensor(priorities)
        given = given.detach().float().flatten().to(targets.device)
        if len(given) != len(targets) or not (given.isfinite() & (given >= 0)).all():
            raise ValueError("a replay buffer needs a finite priority of at least 0 per example")
        rows = columns(inputs) | {"targets": targets, "draws": given}
        before = self._memory.current
        joined = {
            name: torch.cat([before[name].to(column), column]) if before else column
            for name, column in rows.items()
        }
        kept = joined["draws"].argsort(descending=True, stable=True)[: self.capacity].sort().values
        self._memory.current = {name: column[kept].detach() for name, column in joined.items()}

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Replayed]:
        """Yields ``steps`` batches on the model's device; ``data`` is not used."""
        if not self.steps:
            return
        if not self.examples:
            raise ValueError("the replay buffer is empty: add examples before the cycle")
        device = next(model.parameters()).device
        chances = self._memory.current["draws"].cpu().double() ** self.alpha
        if not chances.any():
            chances = torch.ones_like(chances)
        inputs, targets = self._memory.examples()
        for _ in range(self.steps):
            size = min(self.batch_size, len(targets))
            places = torch.multinomial(chances, size, True, generator=self.generator)
            places = places.to(targets.device)
            chosen = each_tensor(taken(inputs, places), lambda tensor: tensor.to(device))
            yield Replayed(chosen, targets[places].to(device), None, places)

    def keep(self, model: nn.Module, data: Iterable[Batch]) -> None:
        """Nothing: what is kept is added by ``add``."""

    def begin_task(self) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The examples, their priorities and the generator."""
        return {"generator": self.generator.get_state(), "memory": self._memory.state_dict(True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings it to a ``state_dict``."""
        self.generator.set_state(state["generator"].cpu())
        self._memory.load_state_dict(state["memory"])


def _batch(examples: Any) -> Any:
    """Pairs of single examples as one batch."""
    pairs = isinstance(examples, list) and examples and isinstance(examples[0], tuple | list)
    if not pairs:
        return examples
    inputs, targets = zip(*examples, strict=True)
    return torch.stack(list(inputs)), torch.stack([torch.as_tensor(target) for target in targets])
