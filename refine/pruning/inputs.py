"""How large are the values that each weight multiplies?"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def at_least_one(batches: Iterable) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; ValueError at the end if there was none."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise ValueError("this importance needs data, and was given no batch of (inputs, targets)")


def input_scales(model: nn.Module, batches: Iterable) -> dict[str, Tensor]:
    """For each weight of a linear layer or convolution that trains, the root mean square of the
    values that it multiplies over examples and positions, padding among them, in the weight's
    shape. Layers that were not called are left out."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    squares: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    @torch.no_grad()
    def note(kind: type[nn.Module], layer: nn.Module, args: tuple, kwargs: dict) -> None:
        values = args[0] if args else kwargs["input"]
        if kind is nn.Linear:
            values = values.reshape(-1, values.shape[-1])
        elif values.dim() < layer.weight.dim():  # an example on its own
            values = values.unsqueeze(0)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        found, places = _summed_by_weight(kind, layer, values.square().sum(0, keepdim=True))
        name = names[id(layer.weight)]
        squares[name] = squares[name] + found if name in squares else found
        positions[name] = positions.get(name, 0) + places * len(values)

    with ExitStack() as hooks, torch.no_grad():
        for layer in model.modules():
            kind = next((kind for kind in LAYERS if isinstance(layer, kind)), None)
            if kind and id(layer.weight) in names and layer.weight.requires_grad:
                hook = layer.register_forward_pre_hook(partial(note, kind), with_kwargs=True)
                hooks.callback(hook.remove)
        for inputs, _ in at_least_one(batches):
            model(inputs)
    return {
        name: total.clamp_(min=0).div_(max(1, positions[name])).sqrt_()
        for name, total in squares.items()
    }


def _summed_by_weight(
    kind: type[nn.Module], layer: nn.Module, values: Tensor
) -> tuple[Tensor, int]:
    """The sum of the ``values`` (of one example) that each weight multiplies, and at how many
    positions it does.

    These layers are linear in their weights, so it is the gradient of the sum of their outputs,
    whatever the stride, dilation, padding or groups.
    """
    largest = values.amax().clamp_(min=torch.finfo(values.dtype).tiny)  # squares overflow fp16
    values = values / largest
    # Without autocast, which may have kept a copy of the weight that no gradient goes through.
    with torch.enable_grad(), torch.autocast(values.device.type, enabled=False):
        outputs = kind.forward(layer, values.to(layer.weight.dtype))
        (sums,) = torch.autograd.grad(outputs.sum(), layer.weight)
    places = values if getattr(layer, "transposed", False) else outputs
    return sums.to(values.dtype) * largest, places[0, 0].numel()
