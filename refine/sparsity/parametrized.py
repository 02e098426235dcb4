"""Of which parameters are a layer's weights made, and does a zero of one stay a zero?

``weight_norm``, of torch.nn.utils and of its parametrizations, makes a weight of a gain and a
direction; ``spectral_norm``, ``torch.nn.utils.prune`` and other parametrizations of one original.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

ALL = -1  # in place of a dimension: the norm is that of the whole tensor


class Source(NamedTuple):
    """A parameter that a layer's weight is, or is made of: ``name``, as the layer has it.

    ``normed``: the dimension whose slices are each divided by their norm, ``ALL`` for the whole
    tensor, None for no norm. ``gain``: of a direction, its gain. ``direction``: of a gain, the name
    of its direction. ``made``: the parametrization that it is an original of.
    """

    name: str
    parameter: nn.Parameter
    normed: int | None = None
    gain: nn.Parameter | None = None
    direction: str | None = None
    made: ParametrizationList | None = None


def sources(layer: nn.Module) -> Iterator[Source]:
    """The layer's own parameters and the originals of its parametrizations."""
    own = dict(layer.named_parameters(recurse=False, remove_duplicate=False))
    for name, parameter in own.items():
        stem, _, kind = name.rpartition("_")
        other = own.get(f"{stem}_{'v' if kind == 'g' else 'g'}") if kind in ("g", "v") else None
        if other is None:
            yield Source(name, parameter, ALL if kind == "orig" else None)
        elif kind == "g":
            yield Source(name, parameter, direction=f"{stem}_v")
        else:
            yield Source(name, parameter, _dimension(layer, stem), gain=other)
    if is_parametrized(layer):
        for weight, made in layer.parametrizations.items():  # type: ignore[operator,union-attr]
            yield from _originals(f"parametrizations.{weight}", made)


def _originals(path: str, made: ParametrizationList) -> Iterator[Source]:
    norm = next((step for step in made if type(step).__name__ == "_WeightNorm"), None)
    originals = dict(made.named_parameters(recurse=False))
    for name, parameter in originals.items():
        if norm is None or "original0" not in originals:
            yield Source(f"{path}.{name}", parameter, ALL, made=made)
        elif name == "original0":
            yield Source(f"{path}.{name}", parameter, direction=f"{path}.original1")
        else:
            dimension: int = norm.dim  # type: ignore[assignment]
            yield Source(f"{path}.{name}", parameter, dimension, originals["original0"], made=made)


def _dimension(layer: nn.Module, weight: str) -> int:
    hooks = [hook for hook in layer._forward_pre_hooks.values() if hasattr(hook, "dim")]
    return next((hook.dim for hook in hooks if getattr(hook, "name", None) == weight), 0)


def mixes(source: Source) -> str:
    """Why zeros of an original are no zeros of the weight; empty if they are, which is tried on a
    copy."""
    if source.made is None:
        return ""
    kinds = ", ".join(type(step).__name__.strip("_") for step in source.made)
    if source.gain is None and not source.made.is_tensor:
        return f"the parametrization {kinds} makes the weight of several tensors"
    draws = torch.rand(source.parameter.shape, generator=torch.Generator().manual_seed(0))
    zero = (draws < 0.5).to(source.parameter.device)
    name = source.name.rpartition(".")[2]
    try:
        copy = deepcopy(source.made).eval()
        with torch.no_grad():
            copy._parameters[name].masked_fill_(zero, 0.0)  # type: ignore[union-attr]
            weight: Tensor = copy()
        if weight.shape == zero.shape and not weight[zero].any():
            return ""
    except Exception as error:  # a parametrization is anybody's code
        return f"the parametrization {kinds} cannot be tried ({error!s:.80})"
    return (
        f"the parametrization {kinds} mixes its entries, so that zeros of it are none of the weight"
    )


def normed_dimension(layer: nn.Module, name: str) -> int | None:
    """What ``Source.normed`` is of the layer's tensor ``name``, which may begin with its path."""
    found = (s.normed for s in sources(layer) if f".{name}".endswith(f".{s.name}"))
    return next(found, None)


def scale_of(layer: nn.Module, weight: nn.Parameter) -> nn.Parameter:
    """What a factor of the layer's weight is a factor of: the gain of a direction, else ``weight``
    itself. A spectral norm undoes it."""
    found = (source.gain for source in sources(layer) if source.parameter is weight)
    gain = next(found, None)
    return weight if gain is None else gain


def sparing(
    layer: nn.Module, name: str, scores: Tensor, alive: Tensor
) -> tuple[Tensor, int | None]:
    """The scores of the layer's tensor ``name``, where the highest of what lives in each slice that
    is divided by its norm is infinite, and how many may go, None for all. If a slice lost all, its
    norm would be 0 and the weight no number."""
    dimension = normed_dimension(layer, name)
    if dimension is None:
        return scores, None
    last = 0 if dimension == ALL else dimension
    values = scores.to(torch.promote_types(scores.dtype, torch.float32), copy=True)

    def rows(tensor: Tensor) -> Tensor:
        return tensor.flatten()[None] if dimension == ALL else tensor.movedim(last, 0).flatten(1)

    living = rows(alive)
    highest = rows(values).masked_fill(~living, -torch.inf).argmax(1, keepdim=True)
    best = torch.zeros_like(living).scatter_(1, highest, True) & living
    shape = values.shape if dimension == ALL else values.movedim(last, 0).shape
    best = best.reshape(shape)
    best = best if dimension == ALL else best.movedim(0, last)
    return values.masked_fill(best & ~values.isnan(), torch.inf), int(living.sum() - best.sum())
