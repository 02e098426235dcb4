"""What does a network cost in multiply-accumulates, parameters and bytes?

The convention: one multiply-accumulate (MAC) is one multiplication with its addition in a
convolution, a linear layer or a matrix product (as in attention), for one image. Norms,
activations, pooling, biases and additions of branches are not counted. Zeros count like any other
number: a network with masked weights has as many MACs as before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from refine.evaluation.traceless import in_mode
from refine.rng import same_random_state
from refine.sparsity.layers import linear_turned

FLOPS_A_MAC = 2  # torch counts the multiplication and the addition
WHOLE = "Global"  # torch's name for all that was counted


def macs(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-accumulates of ``model`` for one image of (channels, height, width)."""
    return sum(_counted(model, image_shape)[WHOLE].values()) // FLOPS_A_MAC


def macs_by_layer(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """Multiply-accumulates of each convolution and linear layer, by name, in the network's order.

    A layer that is called twice counts twice. Not included are matrix products outside of layers,
    and layers whose weights are used without calling them (``nn.MultiheadAttention``'s).
    """
    counts = _counted(model, image_shape)
    root = type(model).__name__
    return {
        name: sum(counts.get(f"{root}.{name}" if name else root, {}).values()) // FLOPS_A_MAC
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or linear_turned(module)
    }


def parameters(model: nn.Module) -> int:
    """The number of parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def nonzero(model: nn.Module) -> int:
    """The number of parameters that are not exactly 0.0."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


def bytes_of(model: nn.Module) -> int:
    """The memory of parameters and buffers in bytes; one that is shared counts once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def example(model: nn.Module, image_shape: Sequence[int], batch: int = 1) -> Tensor:
    """A batch of zeros of ``image_shape`` on the network's device and in its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, *image_shape, dtype=like.dtype, device=like.device)


def _counted(model: nn.Module, image_shape: Sequence[int]) -> dict[str, dict[Any, int]]:
    """FLOPs of one pass by module and operation. The pass leaves no trace in the network: it works
    on copies of the buffers."""
    from torch.utils.flop_counter import FlopCounterMode  # only here: it imports triton

    image = example(model, image_shape)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with (
        same_random_state(),
        torch.no_grad(),
        in_mode(model, training=False),
        _attention_in_steps(),
        FlopCounterMode(display=False) as counter,
    ):
        functional_call(model, buffers, (image,))
    return counter.get_flop_counts()


@contextmanager
def _attention_in_steps() -> Iterator[None]:
    """Attention as matrix products: torch does not count every fused kernel of it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
