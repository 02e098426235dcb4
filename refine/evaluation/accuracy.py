"""How often is the network right, and how wrong is it?"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats, and accuracy as a fraction."""

    loss: float
    accuracy: float


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in training or evaluation mode; afterwards every module has its own mode again.

    A model that is in that mode as a whole stays as it is, with the parts that its owner set apart.
    """
    modes = [(module, module.training) for module in model.modules()]
    if model.training != training or not training:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.inference_mode()
def accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: Callable[[], AbstractContextManager] = nullcontext,
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
