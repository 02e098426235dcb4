"""What does a cycle train on after its cut?

Storage (``Replay._fill``), priority (the functions) and sampling (``Replay.batches``) are apart.
Each priority is a function ``(losses, count, generator) -> priorities`` of one batch of ``count``
images, the highest kept; ``losses()`` computes the batch's losses, for those that need them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.batches import Batch
from refine.evaluation.accuracy import in_mode

__all__ = ["high_loss", "uniform"]

Priority = Callable[[Callable[[], Tensor], int, torch.Generator], Tensor]


def high_loss(losses: Callable[[], Tensor], count: int, generator: torch.Generator) -> Tensor:
    """The loss of each of the ``count`` images under the network as it is now."""
    return losses()


def uniform(losses: Callable[[], Tensor], count: int, generator: torch.Generator) -> Tensor:
    """A number by lot for each of the ``count`` images: every subset is equally likely."""
    return torch.rand(count, generator=generator)


@dataclass
class Replay:
    """Remembers the ``buffer_size`` images of highest priority and trains on them.

    The buffer is filled anew at every cycle in one pass over the data; ``steps`` batches then run
    through it in a random order, again and again. Memory is bounded: at most twice ``buffer_size``
    images and a batch of the data.

    ``loss(outputs, targets, reduction="none")`` gives a number for each image, as the losses of
    torch.nn.functional do; ``autocast`` is the context of the scoring pass.
    """

    priority: Priority = high_loss
    buffer_size: int = 1000
    steps: int = 30
    batch_size: int = 128
    seed: int = 0
    loss: Callable[..., Tensor] = F.cross_entropy
    autocast: Callable[[], AbstractContextManager] = nullcontext
    generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Batch]:
        """Yields ``steps`` batches of (images, labels) from a buffer filled from ``data``."""
        if not self.steps:
            return
        images, labels = self._fill(model, data)
        size = min(self.batch_size, len(labels))
        order = torch.empty(0, dtype=torch.long)
        for _ in range(self.steps):
            if len(order) < size:
                order = torch.randperm(len(labels), generator=self.generator).to(labels.device)
            chosen, order = order[:size], order[size:]
            yield images[chosen], labels[chosen]

    def _fill(self, model: nn.Module, data: Iterable[Batch]) -> Batch:
        waiting: list[tuple[Tensor, Tensor, Tensor]] = []

        def compact() -> None:
            priorities, images, labels = (torch.cat(part) for part in zip(*waiting, strict=True))
            best = priorities.topk(min(self.buffer_size, len(priorities))).indices.sort().values
            waiting[:] = [(priorities[best], images[best], labels[best])]

        with in_mode(model, training=False), torch.no_grad():
            for images, labels in data:

                def losses(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                    with self.autocast():
                        each = self.loss(model(images), labels, reduction="none").float()
                    if each.dim() == 0 or len(each) != len(labels):
                        raise ValueError("the loss gives no number for each image (reduction=none)")
                    return each.flatten(1).mean(1) if each.dim() > 1 else each

                priorities = self.priority(losses, len(labels), self.generator)
                if not priorities.isfinite().all():
                    raise ValueError("a replay priority is not finite; has training diverged?")
                waiting.append((priorities.to(labels.device), images, labels))
                if sum(len(entry[0]) for entry in waiting) >= 2 * self.buffer_size:
                    compact()
        if not waiting:
            raise ValueError("replay needs data, and the loader yielded no batch")
        compact()
        return waiting[0][1], waiting[0][2]
