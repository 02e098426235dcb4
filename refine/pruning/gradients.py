"""What do batches tell of each weight: how does the loss change with it, and what does it multiply?

Only parameters that train are looked at. Gradients are computed without ``.grad``, which stays as
it is; they are 0 where the loss does not depend on a weight.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from refine.batches import Batch, Inputs, taken
from refine.objective import outputs
from refine.pruning import Batches, Loss, Tensors
from refine.sparsity.layers import linear_turned, weight_tensor

LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
SAMPLE_GRADIENTS_AT_ONCE = 2**26  # numbers: 256 MiB in single precision
# Where the gradients of single examples are faster one by one: together they make grouped
# convolutions, which take 1.2 to 4 times as long on a CPU.
ONE_BY_ONE = ("cpu",)


def at_least_one(batches: Batches) -> Iterator[Batch]:
    """The batches; ValueError at the end if there was none."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise ValueError("this importance needs data, and was given no batch of (inputs, targets)")


class _WithWeight:
    """A layer with another weight: of parametrised and of frozen ones no gradient is to be had."""

    def __init__(self, layer: nn.Module):
        self._layer = layer
        self.weight: Tensor = layer.weight.detach().requires_grad_()  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def input_scales(
    model: nn.Module, batches: Batches, wanted: Collection[str] | None = None
) -> dict[str, Tensor]:
    """For each weight of a linear layer or convolution, the root mean square of the values that it
    multiplies, over all examples and positions (padding included), in the weight's shape. Layers
    that were not called are left out. wanted: names of weights; by default those that train."""
    names = {
        id(weight): name
        for name, weight in model.named_parameters()
        if (weight.requires_grad if wanted is None else name in wanted)
    }
    squares: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    @torch.no_grad()
    def note(
        kind: type[nn.Module],
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        values: Tensor = args[0] if args else kwargs["x" if "x" in kwargs else "input"]
        layer = _WithWeight(module)
        if not issubclass(kind, nn.modules.conv._ConvNd):
            values = values.reshape(-1, values.shape[-1])
        elif values.dim() < layer.weight.dim():  # an example on its own
            values = values.unsqueeze(0)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        found, places = _summed_by_weight(kind, layer, values.square().sum(0, keepdim=True))
        squares[name] = squares[name] + found if name in squares else found
        positions[name] = positions.get(name, 0) + places * len(values)

    with ExitStack() as hooks, torch.no_grad():
        for layer in model.modules():
            kind = _kind(layer)
            if kind is not None and (name := names.get(id(weight_tensor(layer)))) is not None:
                hook = layer.register_forward_pre_hook(partial(note, kind, name), with_kwargs=True)
                hooks.callback(hook.remove)
        for inputs, _ in at_least_one(batches):
            outputs(model, inputs)
    return {
        name: total.clamp_(min=0).div_(max(1, positions[name])).sqrt_()
        for name, total in squares.items()
    }


def _kind(layer: nn.Module) -> type[nn.Module] | None:
    """The class whose ``forward`` multiplies by the layer's weight alone; None for others."""
    found = next((kind for kind in LAYERS if isinstance(layer, kind)), None)
    return type(layer) if found is None and linear_turned(layer) else found


def _summed_by_weight(
    kind: type[nn.Module], layer: _WithWeight, values: Tensor
) -> tuple[Tensor, int]:
    """The sum of the ``values`` (of one example) that each weight multiplies, and at how many
    positions it multiplies one.

    These layers are linear in their weights, so the sum is the gradient of the sum of their
    outputs, whatever the stride, dilation, padding or groups.
    """
    largest = values.amax().clamp_(min=torch.finfo(values.dtype).tiny)  # squares overflow fp16
    values = values / largest
    forward: Callable[..., Tensor] = kind.forward  # of the class, without hooks
    # Without autocast, which may have kept a copy of the weight that passes no gradient on.
    with torch.enable_grad(), torch.autocast(values.device.type, enabled=False):
        made = forward(layer, values.to(layer.weight.dtype))
        (sums,) = torch.autograd.grad(made.sum(), layer.weight)
    places = values if getattr(layer, "transposed", False) else made
    return sums.to(values.dtype) * largest, places[0, 0].numel()


def summed_over_batches(
    model: nn.Module, batches: Batches, loss: Loss, term: Callable[[Tensor, int], Tensor]
) -> tuple[dict[str, Tensor], int]:
    """The sum over the batches of ``term(w * g, examples in the batch)``, where g is the gradient
    of a batch's mean loss, and the number of batches. At least in single precision."""
    weights, sums, count = _trained(model), _zeros(model), 0
    for inputs, targets in at_least_one(batches):
        gradients = _gradients(model, inputs, targets, loss)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            product = weight.detach().to(sums[name].dtype) * gradient
            sums[name] += term(product, len(targets))
        count += 1
    return sums, count


def mean_gradients(model: nn.Module, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """The mean over the batches of the gradient of a batch's mean loss, in the weights' type."""
    weights, sums, count = _trained(model), _zeros(model), 0
    for inputs, targets in at_least_one(batches):
        gradients = _gradients(model, inputs, targets, loss)
        for name, gradient in zip(weights, gradients, strict=True):
            sums[name] += gradient
        count += 1
    return {name: total.div_(count).to(weights[name].dtype) for name, total in sums.items()}


def mean_squared_gradients(model: nn.Module, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """The mean over all examples of the squared gradient of one example's loss."""
    weights, sums, count = _trained(model), _zeros(model), 0
    chunk = max(1, SAMPLE_GRADIENTS_AT_ONCE // sum(weight.numel() for weight in weights.values()))
    together = chunk > 1
    for inputs, targets in at_least_one(batches):
        count += len(targets)
        together = together and isinstance(inputs, Tensor) and inputs.device.type not in ONE_BY_ONE
        for part in _parts(inputs, targets, chunk):
            if together:
                try:
                    for name, each in _together(model, *part, loss).items():
                        sums[name] += each.to(sums[name].dtype).square().sum(0)
                    continue
                except Exception:  # any: an example's own error comes again below
                    together = False
            for one in _parts(*part, 1):
                for name, gradient in zip(weights, _gradients(model, *one, loss), strict=True):
                    sums[name] += gradient.to(sums[name].dtype).square()
    return {name: total.div_(count) for name, total in sums.items()}


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    found = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not found:
        raise ValueError("no parameter of the model trains, so that none has a gradient")
    return found


def _zeros(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for name, weight in _trained(model).items()
    }


def _parts(inputs: Inputs, targets: Tensor, size: int) -> Iterator[Batch]:
    """The batch in parts of ``size`` examples."""
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        yield taken(inputs, part), targets[part]


def _gradients(model: nn.Module, inputs: Inputs, targets: Tensor, loss: Loss) -> list[Tensor]:
    """The gradient of the batch's mean loss for each parameter that trains."""
    with torch.enable_grad(), _recurrent_in_evaluation(model):
        value = loss(outputs(model, inputs), targets)
        found = torch.autograd.grad(value, [*_trained(model).values()], materialize_grads=True)
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found]


def _together(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensors:
    """The gradient of every example's loss, (examples, *shape) for each parameter that trains."""

    def of_one(weights: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
        made = functional_call(model, weights, (one.unsqueeze(0),))
        return loss(made, target.unsqueeze(0))

    weights = {name: weight.detach() for name, weight in _trained(model).items()}
    with torch.enable_grad(), _recurrent_in_evaluation(model):
        found: Tensors = vmap(grad(of_one), in_dims=(None, 0, 0))(weights, inputs, targets)
    return found


@contextmanager
def _recurrent_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Turns cuDNN off for networks with recurrent layers: in evaluation mode it has no backward
    pass of these."""
    before = torch.backends.cudnn.enabled
    if any(isinstance(layer, nn.RNNBase) for layer in model.modules()):
        torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
