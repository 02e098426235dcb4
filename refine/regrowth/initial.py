"""Which value does a regrown weight start from?

Each is a function ``(weight, alive, marked, reference, stale, generator) -> values``: a tensor of
one dimension with a value for each ``marked`` position, in the order of the index. ``weight``,
``alive`` (the mask before), ``marked``, ``reference`` (the denser network's values) and ``stale``
(each weight just before it was cut) have one shape. Random numbers come from ``generator``, which
is on the CPU. Fans are counted as in torch.nn.init.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from refine.sparsity.layers import by_output, from_output

__all__ = ["fan_in", "kaiming", "reference", "stale", "xavier", "zero"]


def zero(
    weight: Tensor,
    alive: Tensor,
    marked: Tensor,
    reference: Tensor | None,
    stale: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """0, so that regrowth does not change the network's outputs (RigL, arXiv:1911.11134)."""
    return weight.new_zeros(int(marked.sum()))


def kaiming(
    weight: Tensor,
    alive: Tensor,
    marked: Tensor,
    reference: Tensor | None,
    stale: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Uniform in +-sqrt(6 / fan-in), of the dense layer (He et al. 2015, arXiv:1502.01852)."""
    return _uniform(weight, marked, sqrt(6 / weight[0].numel()), generator)


def xavier(
    weight: Tensor,
    alive: Tensor,
    marked: Tensor,
    reference: Tensor | None,
    stale: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Uniform in +-sqrt(6 / (fan-in + fan-out)), of the dense layer (Glorot and Bengio 2010)."""
    fan_out = weight[:, 0].numel() if weight.dim() > 1 else len(weight)
    return _uniform(weight, marked, sqrt(6 / (weight[0].numel() + fan_out)), generator)


def reference(
    weight: Tensor,
    alive: Tensor,
    marked: Tensor,
    reference: Tensor | None,
    stale: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """The denser network's value (arXiv:2511.11675)."""
    return _taken("reference", reference, weight, marked)


def stale(
    weight: Tensor,
    alive: Tensor,
    marked: Tensor,
    reference: Tensor | None,
    stale: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """The value that the weight had just before it was cut."""
    return _taken("stale", stale, weight, marked)


def fan_in(
    weight: Tensor,
    alive: Tensor,
    marked: Tensor,
    reference: Tensor | None,
    stale: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """N(0, 2 / sparse fan-in): the sparse fan-in is how many inputs the weight's output has after
    the regrowth (Evci et al. 2020, arXiv:2010.03533)."""
    inputs = (alive | marked).flatten(1).sum(1) if weight.dim() > 1 else torch.ones_like(marked)
    deviation = (2 / inputs.clamp(min=1)).sqrt().reshape(-1, *[1] * (weight.dim() - 1))
    normal = torch.randn(int(marked.sum()), generator=generator)
    return (normal.to(weight.device) * deviation.expand_as(weight)[marked]).to(weight.dtype)


def turned(initial: Callable[..., Tensor], layer: nn.Module) -> Callable[..., Tensor]:
    """The same for a layer whose weight has its inputs first: ``initial`` sees it as (outputs,
    inputs)."""

    def values(weight: Tensor, alive: Tensor, marked: Tensor, *others: Any) -> Tensor:
        given = (weight, alive, marked, *others[:2])
        rows = [None if known is None else by_output(layer, known) for known in given]
        whole = torch.zeros_like(by_output(layer, weight))
        whole[by_output(layer, marked)] = initial(*rows, others[2])
        return from_output(layer, whole, weight.shape)[marked]

    return values


def _uniform(weight: Tensor, marked: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(int(marked.sum()), generator=generator) * 2 - 1
    return (uniform * bound).to(weight.device, weight.dtype)


def _taken(kind: str, values: Tensor | None, weight: Tensor, marked: Tensor) -> Tensor:
    if values is None or values.shape != weight.shape:
        raise ValueError(f"the initial value {kind!r} needs {kind} values of the weights' shape")
    return values.to(weight.device, weight.dtype)[marked]
