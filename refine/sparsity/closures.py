"""How does one see the gradients of an optimizer's step that only a closure computes?"""

import inspect
from collections.abc import Callable
from typing import Any

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
