"""How is a network used without leaving a trace in it, or in the random generators?"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine import parallel
from refine.rng import same_random_state, stream

Found = TypeVar("Found")


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in training or evaluation mode; afterwards every module has its own mode again.

    A model that is in training mode already stays as it is, with the parts that its owner has put
    into evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    if model.training != training or not training:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def without_trace(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in training or evaluation mode; afterwards its modes, its buffers and the random
    generators of Python, NumPy and torch are as they were, to the bit."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with same_random_state(), in_mode(model, training):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def score(
    importance: Callable[..., Found],
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[..., Tensor] = F.cross_entropy,
    number: int = 0,
    names: Collection[str] | None = None,
) -> Found:
    """The scores that ``importance`` gives ``model`` in evaluation mode, ``without_trace``.

    ``loss`` and ``names``, the tensors that are asked for, are passed on only to an importance that
    takes them by these names. ``number``, such as the cycle's, seeds what it draws at random.
    """
    given: dict[str, Any] = {"loss": loss} if takes(importance, "loss") else {}
    if names is not None and takes(importance, "names"):
        given["names"] = names
    seed = parallel.first_number(torch.initial_seed())
    with parallel.all_or_none(), without_trace(model, training=False):
        torch.manual_seed(stream(seed, "score", number))
        found = importance(model, batches, **given)
    if isinstance(found, dict):
        parallel.mean_({n: score for n, score in found.items() if isinstance(score, Tensor)})
    return found


def takes(importance: Callable[..., object], name: str) -> bool:
    """Whether a function is to be given an argument of this name."""
    if name in getattr(importance, "keywords", {}):  # a functools.partial that has its own
        return False
    try:
        parameters = inspect.signature(importance).parameters
    except ValueError:  # some callables written in C have no signature
        return False
    open_ended = any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values())
    return (open_ended and name == "loss") or name in parameters
