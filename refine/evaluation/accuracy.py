"""How accurate is a network, and how large is its loss?"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.evaluation.traceless import in_mode


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats, and accuracy as a fraction."""

    loss: float
    accuracy: float


@torch.inference_mode()
def accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Score:
    """Evaluates ``model`` on batches of (images, labels); logits are (N, classes)."""
    losses, correct, count = [], [], 0
    with in_mode(model, training=False), autocast():
        for images, labels in batches:
            logits = model(images)
            losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
            correct.append((logits.argmax(1) == labels).sum())
            count += len(labels)
    return Score(float(torch.stack(losses).sum()) / count, int(torch.stack(correct).sum()) / count)
