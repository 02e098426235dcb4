"""How is a network measured without leaving a trace in it?"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.evaluation.accuracy import in_mode
from refine.rng import random_state, set_random_state, stream


@contextmanager
def without_trace(model: nn.Module, training: bool) -> Iterator[None]:
    """Passes through ``model``, in training or evaluation mode, after which its buffers, its
    modules' modes and the generators of torch are as they were, to the bit."""
    devices = {parameter.device for parameter in model.parameters()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with (
        torch.random.fork_rng([device for device in devices if device.type == "cuda"]),
        in_mode(model, training=training),
    ):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


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
