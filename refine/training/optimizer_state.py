"""Does the saved state of an optimizer fit the parameters that it trains now?"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# What torch's fused kernels read and write for every element of a parameter, and check no shape of.
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum")


def load_(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """``optimizer.load_state_dict(state)``; ValueError if its moments are not of their parameters'
    shapes. They get the parameters' layout in memory too, as fused kernels take it for granted."""
    optimizer.load_state_dict(state)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items() if isinstance(kept, dict) else ():
            if name in MOMENTS and value is not None:
                kept[name] = _laid_out(name, value, parameter)
            elif name == "step" and isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"the optimizer's step is {tuple(value.shape)}, not one number")


def _laid_out(name: str, value: Any, parameter: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(
            f"the optimizer's {name} is {found}, its parameter {tuple(parameter.shape)}"
        )
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
