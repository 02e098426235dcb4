"""What does a network compute when its weights are random and its signal is alive at every depth?

The network's own weights could hide a mistake, as a norm whose scale is still 0 does; and random
ones alone make the signal die on its way through a deep network.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from refine.channels.library import said
from refine.sparsity.copies import copy_of
from refine.sparsity.shrink import Smaller, each_tensor, smaller_

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
OUTPUTS = ""  # the network's own, beside those of its layers
Seen = dict[str, list[Tensor]]


class Affine(nn.Module):
    """Scale and shift of a layer norm along ``axis``, with a fixed mean and deviation instead of
    those of its inputs, which mix channels."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: Any, axis: int, mean: float, deviation: float):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.axis, self.mean, self.deviation = axis, mean, deviation or 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(..., width, ...) to the same."""
        x = ((x - self.mean) / self.deviation).movedim(self.axis, -1)
        x = x if self.weight is None else x * self.weight
        x = x if self.bias is None else x + self.bias
        return x.movedim(-1, self.axis)


class Probe:
    """A copy of ``model`` with random weights, and inputs of the shape of ``example`` (N, ...), in
    double precision where the network's code works in it. Every layer's outputs are scaled to a
    deviation of 1, and batch norms have the statistics of these inputs.

    ``norms``: for each layer norm the axis along which it works, and the mean and deviation of its
    inputs; not for those whose axis is unknown. ValueError if the network fails on random inputs.
    """

    def __init__(self, model: nn.Module, example: Tensor, seed: int = 0):
        self.norms: dict[str, tuple[int, float, float]] = {}
        for dtype in (torch.float64, torch.float32, example.dtype):
            draw = torch.Generator().manual_seed(seed)
            inputs = torch.randn(2, *example.shape[1:], generator=draw)
            self.inputs = inputs.to(example.device, dtype)
            self.network = _drawn(model, draw).eval().to(dtype)
            try:
                return self._settle_()
            except Exception as error:  # the network's own code
                problem = said(error)
        raise ValueError(f"the network fails on random inputs: {problem}")

    @contextmanager
    def plain(self, names: Iterable[str]) -> Iterator[None]:
        """Inside, layer norms are replaced."""
        norms = {name: self.network.get_submodule(name) for name in names}
        for name, norm in norms.items():
            self.network.set_submodule(name, Affine(norm, *self.norms[name]))
        try:
            yield
        finally:
            for name, norm in norms.items():
                self.network.set_submodule(name, norm)

    @contextmanager
    def without(self, smaller: Smaller) -> Iterator[None]:
        """Inside, the network is ``smaller``. That takes less time than a copy would."""
        tensors = [
            (t, t.data, m) for n, t, m in each_tensor(self.network) if n in smaller.positions
        ]
        widths = {
            module: {
                name: kept for name, kept in vars(module).items() if type(kept) in (int, tuple)
            }
            for _, _, module in tensors
        }
        smaller_(self.network, smaller)
        try:
            yield
        finally:
            for tensor, data, module in tensors:
                tensor.data = data
                vars(module).update(widths[module])

    def seen(self) -> Seen:
        """What each layer makes of the inputs, by name, call after call, and the network itself as
        OUTPUTS."""
        seen, handles = Seen(), []

        def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
            return lambda layer, given, made: seen.setdefault(name, []).append(made)

        for name, layer in self.network.named_modules():
            if isinstance(layer, LAYERS) and name != OUTPUTS:
                handles.append(layer.register_forward_hook(keep(name)))
        try:
            leaves = pytree.tree_leaves(self.network(self.inputs))
        finally:
            for handle in handles:
                handle.remove()
        seen[OUTPUTS] = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return seen

    @torch.no_grad()
    def _settle_(self) -> None:
        """Scales the weights, layer after layer, in a pass of the inputs."""
        handles = []
        for name, module in self.network.named_modules():
            if isinstance(module, LAYERS):
                handles.append(module.register_forward_hook(_scale_once()))
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                handles.append(module.register_forward_pre_hook(_measure_))
            elif isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
                handles.append(module.register_forward_hook(self._note(name)))
        try:
            self.network(self.inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, name: str) -> Callable[[nn.LayerNorm, tuple, Tensor], None]:
        def note(norm: nn.LayerNorm, given: tuple, made: Tensor) -> None:
            x = given[0]
            if (axis := _axis(norm, x)) is not None:
                self.norms[name] = axis, float(x.mean()), float(x.std())

        return note


def _drawn(model: nn.Module, draw: torch.Generator) -> nn.Module:
    """A copy with random weights and buffers."""
    copy = copy_of(model)
    with torch.no_grad():
        for name, tensor in (*copy.named_parameters(), *copy.named_buffers()):
            if not tensor.is_floating_point() or not tensor.dim():
                continue
            if tensor.dim() > 1:
                numbers = torch.randn(tensor.shape, generator=draw) / tensor[0].numel() ** 0.5
            elif name.endswith(("bias", "mean")):
                numbers = 0.3 * torch.randn(tensor.shape, generator=draw)
            else:
                numbers = 0.5 + torch.rand(tensor.shape, generator=draw)
            tensor.copy_(numbers)
    return copy


def _scale_once() -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    """A hook that gives a layer's outputs a deviation of 1, by its weights, at its first call."""
    done = False

    def scale(layer: Any, given: Any, made: Tensor) -> Tensor | None:
        nonlocal done
        by = float(made.std())
        if done or not 0 < by < float("inf"):
            return None
        done = True
        for tensor in layer.parameters(recurse=False):
            tensor.div_(by)
        return made / by

    return scale


def _measure_(norm: nn.modules.batchnorm._BatchNorm, given: tuple) -> None:
    """A hook that gives a batch norm the statistics of its inputs."""
    if norm.running_mean is not None and norm.running_var is not None:
        others = [axis for axis in range(given[0].dim()) if axis != 1]
        norm.running_mean.copy_(given[0].mean(others))
        norm.running_var.copy_(given[0].var(others, correction=0))


def _axis(norm: nn.LayerNorm, x: Tensor) -> int | None:
    """Along which axis of its inputs ``x`` a layer norm scales: for some subclasses it is not the
    last. None if none is found."""
    if type(norm).forward is nn.LayerNorm.forward:
        return -1
    if norm.weight is None:
        return None
    trial, made = deepcopy(norm), []
    for scale in (0.0, 1.0):
        trial.weight.zero_()[0] = scale
        made.append(trial.forward(x))
    changed = made[0] != made[1]
    for axis, size in enumerate(changed.shape):
        others = changed.narrow(axis, 1, size - 1)
        if size == len(norm.weight) and changed.any() and not others.any():
            return axis
    return None
