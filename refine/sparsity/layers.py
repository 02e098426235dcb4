"""Which layers have prunable weights, and where are those of one output channel?

What may be cut is decided by all owners of a tensor: a linear layer's weight that an embedding has
too is left alone.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from refine.sparsity.parametrized import Source, mixes, sources

PRUNABLE_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
)
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
SHOWN = 8  # names in a message
# A parametrization is a part of its layer, and a list of parameters computes nothing.
PARTS = (ParametrizationList, nn.ParameterList, nn.ParameterDict)


class Owner(NamedTuple):
    """A layer that has a tensor, by its path, and what the tensor is in it."""

    path: str
    layer: nn.Module
    source: Source

    @property
    def cuts(self) -> bool:
        """Whether the tensor is a weight of a kind of layer that is pruned."""
        known = _prunable(self.layer)
        weight = "weight" in self.source.name and self.source.direction is None
        return known and weight and self.source.parameter.dim() >= 2


def owners(model: nn.Module) -> dict[str, list[Owner]]:
    """All owners of every parameter, by its name. ValueError if one is not initialised yet."""
    for name, tensor in model.named_parameters():
        if is_lazy(tensor):
            problem = "has no shape before the first forward pass; pass a batch through it first"
            raise ValueError(f"{name} {problem}")
    found: dict[int, list[Owner]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, PARTS):
            for source in sources(module):
                found.setdefault(id(source.parameter), []).append(Owner(path, module, source))
    return {name: found.get(id(tensor), []) for name, tensor in model.named_parameters()}


def prunable_names(model: nn.Module) -> list[str]:
    """Names of the weight tensors (two or more dimensions) of convolutions, linear, attention and
    recurrent layers that train. Biases, norms, gains and embeddings are never among them."""
    return [name for name, reason in _candidates(model).items() if not reason]


def left_out(model: nn.Module) -> dict[str, str]:
    """The other weights of such layers, each with the reason why it is left alone: an embedding
    owns it too, it is frozen, its parametrization mixes entries."""
    return {name: reason for name, reason in _candidates(model).items() if reason}


def _candidates(model: nn.Module) -> dict[str, str]:
    found = {}
    for name, each in owners(model).items():
        cutting = [owner for owner in each if owner.cuts]
        if cutting:
            tensor = cutting[0].source.parameter
            reasons = [_elsewhere(owner) for owner in each if not owner.cuts]
            reasons += [_unfit(tensor), "" if tensor.requires_grad else "frozen"]
            reasons += [] if any(reasons) else [mixes(owner.source) for owner in cutting]
            found[name] = next(filter(None, reasons), "")
    return found


def named(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The parameters of these names, each by its first name. ValueError where there is none, or
    where its zeros could not be held or would mean nothing."""
    every = model.named_parameters(remove_duplicate=False)
    known, first = dict(every), {id(tensor): name for name, tensor in model.named_parameters()}
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"the model has no parameter {unknown[0]!r}")
    found = list(dict.fromkeys(first[id(known[name])] for name in wanted))
    by_name = owners(model)
    for name in found:
        for path, _, source in by_name[name]:
            problem = _unfit(source.parameter) or mixes(source)
            if source.direction is not None:
                direction = f"{path}.{source.direction}".removeprefix(".")
                problem = f"the gain of a weight norm; its direction is {direction}"
            if problem:
                raise ValueError(f"{name} cannot be pruned: {problem}")
    return found


def none_to_prune(model: nn.Module) -> str:
    """What to say of a model that has nothing to prune."""
    if others := left_out(model):
        return f"the model has nothing to prune but what prunable=[...] names: {said(others)}"
    return (
        "the model has no convolution, linear, attention or recurrent layer that trains; "
        "name the tensors to prune with prunable=[...]"
    )


def said(reasons: Mapping[str, str]) -> str:
    """Tensors and reasons in one line."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    parts = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        parts.append(f"{', '.join(names[:SHOWN])}{more} ({reason})")
    return "; ".join(parts)


def _elsewhere(owner: Owner) -> str:
    embeds = isinstance(owner.layer, nn.Embedding | nn.EmbeddingBag)
    kind = "embedding" if embeds else type(owner.layer).__name__
    return f"the {kind} {owner.path or 'above'} owns it too"


def _unfit(tensor: Tensor) -> str:
    """Why elements of a tensor cannot be scored and held at 0."""
    if tensor.device.type == "meta":
        return "it has no values, on the device meta; load the network first"
    if tensor.dtype not in TYPES:
        types = ", ".join(str(kind).removeprefix("torch.") for kind in TYPES)
        return f"its type is {tensor.dtype}, and not one of {types}"
    return ""


def layer_path(name: str) -> str:
    """The path of the layer that a tensor belongs to; of a parametrization's tensor, that of the
    layer whose weight it makes."""
    path = name.rpartition(".")[0]
    above, marker, _ = f".{path}".rpartition(".parametrizations.")
    return above.removeprefix(".") if marker else path


def home(model: nn.Module, name: str) -> str:
    """The path of the layer whose weight a tensor is: of its owners, the first of a kind that is
    pruned; else ``layer_path``."""
    path = layer_path(name)
    if _prunable(model.get_submodule(path)):
        return path
    return next((owner.path for owner in owners(model).get(name, []) if owner.cuts), path)


def _prunable(layer: nn.Module) -> bool:
    return isinstance(layer, PRUNABLE_LAYERS) or linear_turned(layer)


def weight_tensor(layer: nn.Module) -> nn.Parameter | None:
    """The parameter whose zeros are those of the layer's ``weight``: itself, its direction, its
    original; None if there is none, or several."""
    found = [s for s in sources(layer) if s.direction is None and _makes_weight(s.name)]
    return found[0].parameter if len(found) == 1 else None


def _makes_weight(name: str) -> bool:
    plain = ("weight", "weight_v", "weight_orig")
    return name in plain or name.startswith("parametrizations.weight.")


def linear_turned(layer: nn.Module) -> bool:
    """Whether a layer is the ``Conv1D`` of Hugging Face's GPT-2, a linear layer whose weight is
    (inputs, outputs). It is known by that name and ``nf``, so that transformers is not needed."""
    named = any(kind.__name__ == "Conv1D" for kind in type(layer).__mro__)
    weight = weight_tensor(layer) if named else None
    return weight is not None and weight.dim() == 2 and len(weight[0]) == getattr(layer, "nf", None)


def transposed(layer: nn.Module) -> bool:
    """Whether the layer's weights are (inputs, outputs of a group, ...), not (outputs, ...)."""
    return isinstance(layer, nn.modules.conv._ConvTransposeNd) or linear_turned(layer)


def groups_of(layer: nn.Module) -> int:
    """The groups of a convolution; 1 for other layers."""
    return layer.groups if isinstance(layer, nn.modules.conv._ConvNd) else 1


def by_output(layer: nn.Module, tensor: Tensor) -> Tensor:
    """A tensor of the layer's weights' shape as (output channels, weights of each)."""
    if not transposed(layer):
        return tensor.flatten(1)
    inputs, outputs = tensor.shape[:2]
    groups = groups_of(layer)
    grouped = tensor.reshape(groups, inputs // groups, outputs, -1)
    return grouped.transpose(1, 2).reshape(groups * outputs, -1)


def from_output(layer: nn.Module, rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse: (output channels, weights of each) as a tensor of the weights' ``shape``."""
    if not transposed(layer):
        return rows.reshape(shape)
    inputs, outputs = shape[:2]
    groups = groups_of(layer)
    grouped = rows.reshape(groups, outputs, inputs // groups, -1)
    return grouped.transpose(1, 2).reshape(shape)
