"""How does a network become physically smaller, and what belongs to its tensors along with it?

A tensor of the smaller network is some of the elements of the larger one's. ``Smaller`` says which;
what has a tensor of the same shape (an optimizer's moments, a mask, an average) takes the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Replaced = dict[nn.Parameter, tuple[nn.Parameter, Tensor | None]]


@dataclass(frozen=True)
class Smaller:
    """For each parameter and buffer that shrinks, by name: positions in the larger tensor, counted
    as if it had one dimension, in the smaller one's shape."""

    positions: Mapping[str, Tensor]

    @classmethod
    def without(cls, model: nn.Module, gone: Mapping[str, Mapping[int, Tensor]]) -> "Smaller":
        """Of ``model`` less the indices ``gone[name][dimension]``; where all of them go, ValueError
        with the tensor's name."""
        tensors = {name: tensor for name, tensor, _ in named_tensors(model)}
        positions = {}
        for name, by_dimension in gone.items():
            shape = tensors[name].shape
            place = torch.arange(tensors[name].numel()).reshape(shape)
            for dimension, indices in by_dimension.items():
                stays = torch.ones(shape[dimension], dtype=torch.bool)
                stays[indices] = False
                if not stays.any():
                    raise ValueError(f"nothing of {name} would be left")
                place = place.index_select(dimension, stays.nonzero().flatten())
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


def smaller_(model: nn.Module, smaller: Smaller) -> Replaced:
    """Makes ``model`` smaller. Its parameters are new ones: of each old one the new, and where its
    elements were. Layers' widths, such as ``out_channels``, are set to fit."""
    return _replace_(
        model,
        {name: (tensor, smaller.positions.get(name)) for name, tensor, _ in each_tensor(model)},
    )


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer, by name: with the code of the network this is all
    that a smaller one of it needs to be built again."""
    return {name: tuple(tensor.shape) for name, tensor, _ in named_tensors(model)}


@torch.no_grad()
def reshape_(model: nn.Module, wanted: Mapping[str, Any]) -> Replaced:
    """Gives ``model`` tensors of the ``wanted`` shapes, by name, larger or smaller; those that
    change are zeros, to be loaded. What is not named stays. ValueError if they are of another
    network."""
    known = {name: tensor for name, tensor, _ in named_tensors(model)}
    found = {}
    for name, tensor in known.items():
        shape = list(wanted.get(name, tensor.shape))
        if len(shape) != tensor.dim() or not all(
            isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape
        ):
            raise ValueError(f"it is of another network: {name} cannot have the shape {shape}")
        same = list(tensor.shape) == shape
        found[name] = (tensor if same else _like(tensor, shape).zero_(), None)
    return _replace_(model, found)


def rebind_(optimizer: torch.optim.Optimizer, replaced: Replaced) -> None:
    """Lets ``optimizer`` go on with the new parameters, and with what it remembers of the elements
    that stay (momentum, Adam's moments). What it remembers in another shape, as Adafactor and LBFGS
    do, begins anew."""
    for group in optimizer.param_groups:  # in place: LBFGS keeps the list
        group["params"][:] = [replaced.get(old, (old, None))[0] for old in group["params"]]
    if hasattr(optimizer, "_numel_cache"):  # LBFGS's own
        optimizer._numel_cache = None
    for parameter in list(optimizer.state):
        state, (new, positions) = optimizer.state[parameter], replaced.get(parameter, (None, None))
        if new is None:
            if any(
                isinstance(value, list) for value in state.values()
            ):  # of all together, as LBFGS
                optimizer.state.pop(parameter)
            continue
        optimizer.state.pop(parameter)
        shapes = {value.shape for value in state.values() if isinstance(value, Tensor)}
        alike = shapes <= {parameter.shape, torch.Size([])} and not any(
            isinstance(value, list | dict) for value in state.values()
        )
        if positions is not None and alike:
            optimizer.state[new] = {
                key: _taken(value, positions)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for key, value in state.items()
            }


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
def _replace_(model: nn.Module, found: Mapping[str, tuple[Tensor, Tensor | None]]) -> Replaced:
    replaced: Replaced = {}
    buffers: dict[int, Tensor] = {}
    for name, old, module in list(each_tensor(model)):
        value, positions = found.get(name, (old, None))
        if positions is None and value is old:
            continue
        if positions is not None:
            value = _taken(old, positions)
        own = name.rpartition(".")[2]
        if isinstance(old, nn.Parameter):
            if old not in replaced:
                new = nn.Parameter(value.detach(), requires_grad=old.requires_grad)
                new.__dict__.update(old.__dict__)
                if old.grad is not None and positions is not None and not old.grad.is_sparse:
                    new.grad = _taken(old.grad, positions)
                replaced[old] = new, positions
            module._parameters[own] = replaced[old][0]
        else:
            module._buffers[own] = buffers.setdefault(id(old), value)
    for module in model.modules():
        _refresh_(module)
    return replaced


def _refresh_(module: nn.Module) -> None:
    """Sets what a layer says of its widths to what its tensors have."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        outputs, inputs = weight.shape[:2]
        if module.transposed:
            module.in_channels, module.out_channels = outputs, inputs * module.groups
            return
        if depthwise(module):
            each = module.out_channels // module.groups
            module.groups = outputs // each
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        known = weight if weight is not None else module.running_mean
        if known is not None:
            module.num_features = len(known)
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)


def depthwise(layer: nn.Module) -> bool:
    """Whether every input channel of a convolution has filters of its own."""
    return layer.groups > 1 and layer.groups == layer.in_channels and not layer.transposed


def _taken(tensor: Tensor, positions: Tensor) -> Tensor:
    taken = tensor.detach().flatten()[positions.to(tensor.device).flatten()]
    return _like(tensor, positions.shape).copy_(taken.reshape(positions.shape))


def _like(tensor: Tensor, shape: Any) -> Tensor:
    """An empty tensor of the ``shape``, as ``tensor`` lies in memory."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=tensor.dtype, device=tensor.device, memory_format=form)
