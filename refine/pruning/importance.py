"""How much does a weight matter?

Each is a function ``(model, batches, loss) -> scores``: for every prunable weight tensor at least,
a tensor of its shape; the lowest go first. ``batches`` yields (inputs, targets) on the model's
device; ``loss`` is ``(outputs, targets) -> mean``. None of them changes the model or its gradients.
``names``, where a function takes it, are the prunable tensors that are asked for.
Scores that are made of the loss exist only for parameters that train. Those in ``NEED_DATA`` raise
ValueError where there is no batch.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.pruning import Batches, Importance, Loss, Scores
from refine.pruning.gradients import input_scales, mean_squared_gradients, summed_over_batches
from refine.pruning.movement import movement
from refine.sparsity.layers import by_output, from_output, home, prunable_names

__all__ = [
    "activation",
    "fisher",
    "magnitude",
    "movement",
    "none",
    "random",
    "similarity",
    "snip",
    "taylor",
    "taylor_squared",
]

DISTANCES_AT_ONCE = 2**24  # 64 MiB of them in single precision


def magnitude(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """|w| (Han et al. 2015, arXiv:1506.02626)."""
    return {name: weight.detach().abs() for name, weight in model.named_parameters()}


def random(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """A random number for every weight, from torch's CPU generator."""
    return {
        name: torch.rand(weight.shape).to(weight.device)
        for name, weight in model.named_parameters()
    }


def none(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """No score for any weight, so that nothing is cut."""
    return {}


def taylor(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """|w g|, to first order how much the loss changes without w; the mean over the batches
    (Molchanov et al. 2017, arXiv:1611.06440)."""
    sums, count = summed_over_batches(model, batches, loss, lambda product, size: product.abs())
    return {name: total.div_(count) for name, total in sums.items()}


def taylor_squared(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """(w g)², the mean over the batches (Molchanov et al. 2019, arXiv:1906.10771)."""
    sums, count = summed_over_batches(model, batches, loss, lambda product, size: product.square())
    return {name: total.div_(count) for name, total in sums.items()}


def fisher(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """w² F / 2, where F, the mean squared gradient of single examples, approximates the Hessian's
    diagonal (Theis et al. 2018, arXiv:1801.05787; LeCun et al. 1989, Optimal Brain
    Damage)."""
    weights = dict(model.named_parameters())
    squares = mean_squared_gradients(model, batches, loss)
    return {name: mean * weights[name].detach().square() / 2 for name, mean in squares.items()}


def snip(model: nn.Module, batches: Batches, loss: Loss = F.cross_entropy) -> Scores:
    """Connection sensitivity |w g| of the mean loss over all batches, as a share of its sum over
    all tensors (Lee et al. 2019, arXiv:1810.02340). Not only for untrained networks."""
    sums, _ = summed_over_batches(model, batches, loss, lambda product, size: product * size)
    total = sum(float(products.abs_().sum()) for products in sums.values())
    return {name: products.div_(total or 1.0) for name, products in sums.items()}


def activation(
    model: nn.Module,
    batches: Batches,
    loss: Loss = F.cross_entropy,
    names: Collection[str] | None = None,
) -> Scores:
    """|w| times the root mean square of what it multiplies: Wanda (Sun et al. 2024,
    arXiv:2306.11695), with the norm of the input divided by the root of its length, so that layers
    of different resolutions can be compared. In layers other than linear ones and convolutions,
    such as attention, |w| alone: their inputs are mostly normalised to 1."""
    scales = input_scales(model, batches, names)
    scores = magnitude(model, batches)
    return {name: score * scales.get(name, 1.0) for name, score in scores.items()}


def similarity(
    model: nn.Module,
    batches: Batches,
    loss: Loss = F.cross_entropy,
    names: Collection[str] | None = None,
) -> Scores:
    """Sum of the distances from a weight's filter to the other filters of its layer: filters near
    the geometric median are replaceable (FPGM, He et al. 2019, arXiv:1811.00250). A filter is all
    weights of one output. Scores compare within a layer; only prunable weights have one."""
    weights, scores = dict(model.named_parameters()), {}
    for name in prunable_names(model) if names is None else names:
        weight, layer = weights[name].detach(), model.get_submodule(home(model, name))
        if weight.dim() < 2:
            continue
        filters = by_output(layer, weight)
        sums = _distance_sums(filters)[:, None].expand_as(filters)
        scores[name] = from_output(layer, sums, weight.shape)
    return scores


def _distance_sums(points: Tensor) -> Tensor:
    """For each row the sum of its Euclidean distances to all others."""
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    rows = max(1, DISTANCES_AT_ONCE // len(points))
    return torch.cat([torch.cdist(some, points).sum(1) for some in torch.split(points, rows)])


NEED_DATA = (activation, fisher, snip, taylor, taylor_squared)  # at least one batch


@runtime_checkable
class StatefulImportance(Protocol):
    """An importance together with what it remembers of training.

    ``needs_steps``: whether ``observe`` must see every training step, just before the optimizer
    takes it. It is called as any importance is.
    """

    @property
    def needs_steps(self) -> bool: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Scores: ...
    def observe(self, weights: Mapping[str, nn.Parameter], scale: Tensor | None = None) -> None: ...
    def begin_epoch(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PlainImportance:
    """Makes a plain function a StatefulImportance that remembers nothing."""

    needs_steps = False

    def __init__(self, function: Importance):
        self.function = function
        # inspect.signature shows the function's own parameters, those that a functools.partial has
        # bound among them.
        self.__wrapped__ = function
        self.keywords = getattr(function, "keywords", {})

    def __call__(self, *args: Any, **kwargs: Any) -> Scores:
        """The function's scores."""
        return self.function(*args, **kwargs)

    def observe(self, weights: Mapping[str, nn.Parameter], scale: Tensor | None = None) -> None:
        """Nothing."""

    def begin_epoch(self) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def as_importance(given: Importance | type[StatefulImportance]) -> StatefulImportance:
    """What ``given`` is as a StatefulImportance: a class such as ``movement`` is instantiated, a
    plain function is wrapped."""
    made = given() if isinstance(given, type) else given
    if isinstance(made, StatefulImportance):
        return made
    members = ("needs_steps", "observe", "begin_epoch", "state_dict", "load_state_dict")
    lacking = [name for name in members if not hasattr(made, name)]
    if 0 < len(lacking) < len(members):  # the half that is there would be ignored in silence
        raise TypeError(f"the importance {made!r:.60} lacks {', '.join(lacking)}")
    return PlainImportance(made)
