"""Which features does the network's last linear layer get of each input?"""

from typing import Any

from torch import Tensor, nn

from refine.batches import Inputs
from refine.objective import outputs
from refine.sparsity.layers import linear_turned


def with_features(model: nn.Module, inputs: Inputs) -> tuple[Any, Tensor]:
    """The outputs, and the inputs (N, D) of the last linear layer that took part in them.

    ValueError if the network has none.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or linear_turned(m)]
    if not layers:
        raise ValueError("features are the input of a linear layer, and the network has none")
    seen: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda module, given, named: seen.append(next(iter((*given, *named.values())))),
            with_kwargs=True,
        )
        for layer in layers
    ]
    try:
        made = outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError("features are the input of a linear layer, and the network calls none")
    return made, seen[-1].flatten(1)
