"""Which gradients does an optimizer's step use: those of a closure, and scaled by what?"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether ``step`` is called with a closure. Of the positional arguments that torch shows its
    hooks, the first is the optimizer."""
    return any(value is not None for value in (*args[1:], *kwargs.values()))


def showing(args: tuple[Any, ...], kwargs: dict[str, Any], show: Callable[[], None]) -> Arguments:
    """The arguments of a step, with a closure that calls ``show`` after its first call: then the
    gradients exist, and the weights are still those before the step."""
    called: list[bool] = []

    def watched(value: Any) -> Any:
        if not callable(value):
            return value

        def closure() -> Any:
            loss = value()
            if not called:
                called.append(True)
                show()
            return loss

        return closure

    return (
        (*args[:1], *(watched(value) for value in args[1:])),
        {name: watched(value) for name, value in kwargs.items()},
    )


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``step`` has to be given a function that computes the loss, as with LBFGS."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def gradient_scale(optimizer: Optimizer) -> Tensor | None:
    """The factor that is still in the gradients; None for 1, infinite if the step is skipped."""
    # A GradScaler leaves unscaling, and skipping the step, to fused optimizers themselves, and
    # tells them so by two attributes for as long as the step lasts.
    scale, overflow = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
    if overflow is None:
        return scale
    return torch.where(overflow > 0, torch.inf, 1.0 if scale is None else scale)
