"""How is a network scored so that its training does not notice?"""

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.evaluation.accuracy import in_mode
from refine.rng import random_state, set_random_state, stream


def score(
    importance: Callable[..., dict[str, Tensor]],
    model: nn.Module,
    batches: Iterable,
    loss: Callable[..., Tensor] = F.cross_entropy,
    number: int = 0,
) -> dict[str, Tensor]:
    """What ``importance`` says of ``model`` in evaluation mode. Modes and random generators are
    afterwards as they were; ``loss`` is passed on only to those that take one by this name. What
    is drawn by lot is other for each ``number``, such as the cycle's."""
    given = {"loss": loss} if _takes_loss(importance) else {}
    state = random_state()
    torch.manual_seed(stream(torch.initial_seed(), "score", number))
    try:
        with in_mode(model, training=False):
            return importance(model, batches, **given)
    finally:
        set_random_state(state)


def _takes_loss(importance: Callable) -> bool:
    if "loss" in getattr(importance, "keywords", {}):  # a functools.partial that has its own
        return False
    try:
        parameters = inspect.signature(importance).parameters
    except ValueError:  # some callables written in C do not tell
        return False
    open_ended = any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values())
    return open_ended or "loss" in parameters
