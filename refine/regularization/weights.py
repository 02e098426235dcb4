"""Which weights does a penalty apply to, and which of them belong to the same channel?"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.channels.groups import ChannelGroup

BATCH_NORM = nn.modules.batchnorm._BatchNorm
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, BATCH_NORM, nn.LayerNorm)


class Weights:
    """The weights of convolutions, linear layers, batch norms and layer norms of ``model`` that
    belong to the channels of ``groups``. All channels are numbered, group after group.

    Groups of one channel are left out, as they cannot be pruned. prunable: names of weights for
    penalties without channels. Of ``model`` only names and sizes are kept.
    """

    def __init__(
        self, model: nn.Module, groups: Iterable[ChannelGroup] = (), prunable: Iterable[str] = ()
    ):
        groups = [group for group in groups if group.width > 1]
        layers = {
            f"{path}.weight".removeprefix("."): module
            for path, module in model.named_modules()
            if isinstance(module, LAYERS) and module.weight is not None
        }
        self.widths = {group.root: group.width for group in groups}
        self.count = sum(self.widths.values())
        # Which dimension of a root's weight is its channels, and how far apart in memory these are.
        self.roots: dict[str, tuple[int, int]] = {}
        # By tensor and dimension the channel of every index; ``count`` stands for no channel.
        numbers: dict[str, dict[int, Tensor]] = {}
        first = 0
        for group in groups:
            root = group.members[0]
            behind = layers[root.tensor].weight.shape[root.dimension + 1 :]
            self.roots[group.root] = root.dimension, behind.numel()
            for member in group.members:
                if member.tensor in layers:
                    size = layers[member.tensor].weight.shape[member.dimension]
                    of_tensor = numbers.setdefault(member.tensor, {})
                    of_index = of_tensor.setdefault(
                        member.dimension, torch.full((size,), self.count)
                    )
                    of_index[member.indices] = first + member.channels
            first += group.width
        self.prunable = tuple(prunable)
        self.scales = tuple(name for name in numbers if isinstance(layers[name], BATCH_NORM))
        self._dimensions = {name: tuple(of_tensor) for name, of_tensor in numbers.items()}
        self._shapes = {name: layers[name].weight.shape for name in numbers}
        flat = [of_index for of_tensor in numbers.values() for of_index in of_tensor.values()]
        self._sizes = [len(of_index) for of_index in flat]
        none = torch.zeros(0, dtype=torch.long)
        self._numbers = torch.cat([none, *flat])
        widths = torch.tensor([*self.widths.values()], dtype=torch.long)
        self._groups = torch.arange(len(groups)).repeat_interleave(widths)

    @property
    def device(self) -> torch.device:
        """Where the channels' numbers are."""
        return self._numbers.device

    def to_(self, device: torch.device) -> None:
        """Brings the channels' numbers to a device, such as that of the parameters."""
        self._numbers, self._groups = self._numbers.to(device), self._groups.to(device)

    def fit(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Whether ``parameters`` have the sizes for which these channels were found."""
        return all(
            name in parameters and parameters[name].shape == shape
            for name, shape in self._shapes.items()
        )

    def squared_norms(self, parameters: Mapping[str, nn.Parameter]) -> Tensor:
        """The sum of the squares of every channel's weights."""
        found = []
        for name, dimensions in self._dimensions.items():
            weight = parameters[name].detach()
            weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
            squares = weight.square()
            for dimension in dimensions:
                others = [d for d in range(weight.dim()) if d != dimension]
                found.append(squares.sum(others) if others else squares)
        squares = torch.cat(found)
        return squares.new_zeros(self.count + 1).index_add_(0, self._numbers, squares)[:-1]

    def lag(self, values: Tensor) -> Tensor:
        """How far each channel's value is below the greatest of its group: from 0 for the greatest
        to 1 for the least, and 0 for all channels of a group with equal values."""
        start = values.new_zeros(len(self.widths))
        greatest, least = (
            start.scatter_reduce(0, self._groups, values, how, include_self=False)[self._groups]
            for how in ("amax", "amin")
        )
        span = greatest - least
        return torch.where(span > 0, (greatest - values) / span, 0.0)

    def add_decay_(self, parameters: Mapping[str, nn.Parameter], strengths: Tensor) -> None:
        """Adds strengths[k] * w to the gradient of every weight w of channel k. A weight of two
        channels, one of its layer's outputs and one of its inputs, gets both."""
        each = iter(F.pad(strengths, (0, 1))[self._numbers].split(self._sizes))
        for name, dimensions in self._dimensions.items():
            factors = {dimension: next(each) for dimension in dimensions}
            if (gradient := open_gradient(parameters[name])) is None:
                continue
            factor = sum(
                of_index.view([-1 if d == dimension else 1 for d in range(gradient.dim())])
                for dimension, of_index in factors.items()
            )
            gradient.addcmul_(parameters[name].detach(), factor.to(gradient.dtype))


def open_gradient(parameter: nn.Parameter) -> Tensor | None:
    """The parameter's gradient, if something can be added to it: None if it is sparse or the
    parameter is frozen."""
    gradient = parameter.grad
    if gradient is None or gradient.is_sparse or not parameter.requires_grad:
        return None
    return gradient
