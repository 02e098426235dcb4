"""What is a replay compared with? As many steps of ordinary training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refine.batches import Batch, OnDevice
from refine.replay.batch import Replayed


@dataclass
class Training:
    """Trains on ``steps`` batches of ``source``, pass after pass, starting a new pass in every
    cycle: the control for all other replays. The order in which ``source`` gives them must come
    from a generator of its own (``source.generator``, if it is random at all), so that the order of
    the epochs is the same with and without this replay."""

    source: Iterable[Batch]
    steps: int

    examples = 0  # nothing is kept
    bytes = 0

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Replayed]:
        """Yields ``steps`` batches of the source; ``data`` is not used. ValueError if a pass has no
        batch."""
        left = self.steps
        source = OnDevice(self.source, next(model.parameters()).device)
        while left:
            before = left
            for inputs, targets in source:
                left -= 1
                yield Replayed(inputs, targets)
                if not left:
                    return
            if left == before:
                raise ValueError("replay needs data, and the loader yielded no batch")

    def keep(self, model: nn.Module, data: Iterable[Batch]) -> None:
        """Nothing is kept."""

    def begin_task(self) -> None:
        """Nothing is closed."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the source's generator, if it has one."""
        generator = self._generator()
        return {} if generator is None else {"generator": generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings the source's generator to that state. ValueError if it has none."""
        if not state:
            return
        generator = self._generator()
        if generator is None:
            raise ValueError("the state is of a source with a generator, and this one has none")
        generator.set_state(state["generator"].cpu())

    def _generator(self) -> torch.Generator | None:
        own = getattr(self.source, "generator", None)
        return own if isinstance(own, torch.Generator) else None
