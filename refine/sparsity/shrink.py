"""How does a network become physically smaller, with the state that belongs to its tensors?

A tensor of the smaller network has some of the elements of the larger one's; ``Smaller`` says
which. Tensors of the same shape (an optimizer's moments, a mask, an average) keep the same ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer


class Change(NamedTuple):
    """How a parameter has changed: its old shape, and the positions of its present elements in it;
    None if all elements are new."""

    shape: torch.Size
    positions: Tensor | None


Shrunk = dict[Tensor, Change]


@dataclass(frozen=True)
class Smaller:
    """For each parameter and buffer that shrinks, by name: positions in the larger tensor, counted
    as if it had one dimension, in the smaller one's shape."""

    positions: Mapping[str, Tensor]

    @classmethod
    def without(cls, model: nn.Module, gone: Mapping[str, Mapping[int, Tensor]]) -> "Smaller":
        """``model`` without the indices ``gone[name][dimension]``; ValueError if nothing of a
        tensor would be left."""
        tensors = {name: tensor for name, tensor, _ in named_tensors(model)}
        positions = {}
        for name, by_dimension in gone.items():
            shape = tensors[name].shape
            place = torch.zeros((), dtype=torch.int64)
            for dimension, size in enumerate(shape):
                stays = torch.ones(size, dtype=torch.bool)
                stays[by_dimension.get(dimension, [])] = False
                if not stays.any():
                    raise ValueError(f"nothing of {name} would be left")
                place = place.unsqueeze(-1) * size + stays.nonzero().flatten()
            positions[name] = place
        return cls(positions)

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a ``tensor`` of the shape that parameter or buffer ``name`` had."""
        if name not in self.positions:
            return tensor
        return _taken(tensor, self.positions[name])

    def removed(self, model: nn.Module) -> dict[str, int]:
        """How many elements each parameter of ``model``, still the larger one, will lose."""
        return {
            name: parameter.numel() - self.positions[name].numel()
            for name, parameter in model.named_parameters()
            if name in self.positions
        }


class Follower(Protocol):
    """A part with state about a network between its cycles. It becomes smaller with the network,
    and is saved and restored with it."""

    def shrunk_(self, model: nn.Module, smaller: Smaller) -> None:
        """Called when ``model`` has become ``smaller``: the state follows."""

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers and text; not a copy."""

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Restores a ``state_dict``; the weights of ``model`` are restored before."""


def smaller_(model: nn.Module, smaller: Smaller) -> Shrunk:
    """Makes ``model`` smaller, in place: parameters and buffers stay the same objects and lose
    elements, their gradients with them. Layers' widths, such as ``out_channels``, are set to fit.
    Returns the changes of the parameters, for ``fit_``."""
    found = {name: (tensor, smaller.positions.get(name)) for name, tensor, _ in each_tensor(model)}
    return _set_(model, {n: (_taken(t, p), p) for n, (t, p) in found.items() if p is not None})


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer, by name. With the network's code, these are enough
    to build a smaller one again."""
    return {name: tuple(tensor.shape) for name, tensor, _ in named_tensors(model)}


def reshape_(model: nn.Module, wanted: Mapping[str, Sequence[int]]) -> Shrunk:
    """Gives ``model`` tensors of the ``wanted`` shapes, by name, larger or smaller, in place; those
    that change become zeros, to be loaded. Others stay. ValueError if the shapes do not fit this
    network."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, tensor, _ in named_tensors(model):
        shape = list(wanted.get(name, tensor.shape))
        if len(shape) != tensor.dim() or not all(
            isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape
        ):
            raise ValueError(f"it is of another network: {name} cannot have the shape {shape}")
        if list(tensor.shape) != shape:
            found[name] = _like(tensor, shape).zero_(), None
    return _set_(model, found)


def fit_(optimizer: Optimizer, shrunk: Mapping[Tensor, Sequence[Change]]) -> None:
    """Makes the state of ``optimizer``, such as Adam's moments, smaller with the parameters: it is
    kept for the elements that stay. State that fits already, as it was made or loaded later, stays;
    state of another shape, as that of Adafactor and LBFGS, is dropped."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, LBFGS):  # its state is for all parameters together
        size, optimizer._numel_cache = sum(p.numel() for p in parameters), None
        if any(tensor.numel() not in (1, size) for tensor in _tensors_in(optimizer.state)):
            optimizer.state.clear()
        return
    for parameter in parameters:
        if parameter in shrunk and parameter in optimizer.state:
            _follow_(optimizer.state, parameter, shrunk[parameter])


def _follow_(
    states: dict[Tensor, dict[str, Any]], parameter: Tensor, changes: Sequence[Change]
) -> None:
    state = states[parameter]
    shapes = {tensor.shape for tensor in _tensors_in(state)} - {torch.Size([])}
    if all(_broadcasts(shape, parameter.shape) for shape in shapes):
        return
    nested = any(isinstance(value, list | dict) for value in state.values())
    # The changes since the state was made.
    first = next((i for i, change in enumerate(changes) if shapes == {change.shape}), None)
    since = [] if first is None or nested else changes[first:]
    if not since or any(change.positions is None for change in since):
        states.pop(parameter)
        return
    for shape, positions in since:
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape and positions is not None:
                state[key] = _taken(value, positions)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(inner)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Every parameter and buffer once, with its name and the module that has it."""
    seen: set[int] = set()
    for name, tensor, module in each_tensor(model):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor, module


def each_tensor(model: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """The same with all names of those that have several."""
    for path, module in model.named_modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    yield f"{path}.{name}" if path else name, tensor, module


@torch.no_grad()
def _set_(model: nn.Module, found: Mapping[str, tuple[Tensor, Tensor | None]]) -> Shrunk:
    """Gives tensors of ``model``, by name, new contents: each with the positions of its elements in
    the old one, if they come from there."""
    shrunk: Shrunk = {}
    done: set[int] = set()
    for name, tensor, _ in list(each_tensor(model)):
        if name not in found or id(tensor) in done:
            continue
        done.add(id(tensor))
        value, positions = found[name]
        gradient = None
        if isinstance(tensor, nn.Parameter):
            shrunk[tensor] = Change(tensor.shape, positions)
            gradient, tensor.grad = tensor.grad, None
        _exchange_(tensor, value)
        if gradient is not None and positions is not None and not gradient.is_sparse:
            tensor.grad = _taken(gradient, positions)
    for module in model.modules():
        _refresh_(module)
    torch.clear_autocast_cache()  # it knows parameters by their identity
    return shrunk


def _exchange_(tensor: Tensor, value: Tensor) -> None:
    """Gives ``tensor`` the content of ``value``, of another shape; it stays the same object.

    If the graph of an earlier step still exists, such as that of a loss that was kept, it holds the
    node that accumulates the parameter's gradient, which expects the old shape. torch makes a new
    node when the element type changes, so the type is changed and changed back; hooks on the
    parameter stay.
    """
    other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
    tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = value


def _refresh_(module: nn.Module) -> None:
    """Sets a layer's widths to those of its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        outputs, inputs = module.weight.shape[:2]
        if module.transposed:
            module.in_channels, module.out_channels = outputs, inputs * module.groups
            return
        if depthwise(module):
            each = module.out_channels // module.groups
            module.groups = outputs // each
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        known = module.running_mean if module.weight is None else module.weight
        if known is not None:
            module.num_features = len(known)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def depthwise(layer: nn.modules.conv._ConvNd) -> bool:
    """Whether every input channel of a convolution has filters of its own."""
    return layer.groups > 1 and layer.groups == layer.in_channels and not layer.transposed


def _taken(tensor: Tensor, positions: Tensor) -> Tensor:
    taken = tensor.detach().flatten()[positions.to(tensor.device).flatten()]
    return _like(tensor, positions.shape).copy_(taken.reshape(positions.shape))


def _like(tensor: Tensor, shape: Any) -> Tensor:
    """An empty tensor of the ``shape``, with the memory format of ``tensor``."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=tensor.dtype, device=tensor.device, memory_format=form)
