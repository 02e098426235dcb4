"""How does a network come back from the tensors and the description in its file?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

import refine.models as models
from refine.config.instantiate import parameters_of
from refine.errors import NetworkError
from refine.sparsity.shrink import reshape_
from refine.stored.description import Description
from refine.stored.modules import batch_norm, weighted_layer


def rebuild(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    description: Description | None,
    network: nn.Module | None = None,
) -> nn.Module:
    """The network with these tensors, in evaluation mode.

    path: of their file, for messages. network: one of the same code, of any width, which is
    changed; without it the description says how to build one. NetworkError says what does not fit.
    """
    if network is None:
        return _from_description(path, tensors, description)
    with _fitting(path):
        if description is not None:
            remove_norms_(network, description.folded)
        load_tensors_(network, tensors)
    return network.eval()


def _from_description(
    path: Path | str, tensors: Mapping[str, Tensor], description: Description | None
) -> nn.Module:
    if description is None or description.function is None:
        raise NetworkError(
            f"{path} does not say which network it holds; give load_model(path, network=...) "
            "one of the same code, or write it with refine-export"
        )
    network = outline(description)
    with _fitting(path):
        remove_norms_(network, description.folded)
        _allocate_(network.eval(), tensors, description)
        load_tensors_(network, tensors)
    return network.eval()


@contextmanager
def _fitting(path: Path | str) -> Iterator[None]:
    """Turns what tensors of another network raise into a NetworkError."""
    try:
        yield
    except (AttributeError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise NetworkError(f"{path} is of another network: {reason:.160}") from None


def outline(description: Description) -> nn.Module:
    """The network that a description's function of refine.models builds, without memory (on the
    device ``meta``): the numbers in a file can ask for any size."""
    if description.function not in models.__all__:
        known = ", ".join(models.__all__)
        raise NetworkError(f"there is no network {description.function!r}; known: {known}")
    make = getattr(models, description.function)
    unknown = set(description.arguments) - parameters_of(make)[0]
    if unknown:
        raise NetworkError(f"{description.function} takes no {sorted(unknown)[0]!r}")
    try:
        with torch.device("meta"):
            network: nn.Module = make(**description.arguments)
    except Exception as error:  # numbers that no network can have
        reason = " ".join(str(error).split())
        raise NetworkError(f"{description.function} cannot be built: {reason:.160}") from None
    return network


def _allocate_(network: nn.Module, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Gives an outline memory, no more than the ``tensors`` take, once it is known that they make
    a network that takes images of the described shape."""
    if missing := sorted(set(network.state_dict()) - set(tensors)):
        raise ValueError(f"it lacks {missing[0]}")
    reshape_(network, {name: tensor.shape for name, tensor in tensors.items()})
    if description.input_shape:
        with torch.no_grad():
            logits = network(torch.empty(1, *description.input_shape, device="meta"))
        if description.classes and logits.shape[1:] != (len(description.classes),):
            raise ValueError(
                f"it names {len(description.classes)} classes, and the shape of the outputs for an "
                f"image is {tuple(logits.shape[1:])}"
            )
    network.to_empty(device="cpu")


def load_tensors_(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives ``network`` the shapes and values of ``tensors``; ValueError or RuntimeError if they
    are of another network."""
    reshape_(network, {name: tensor.shape for name, tensor in tensors.items()})
    known = set(network.state_dict())
    state = {name: tensor for name, tensor in tensors.items() if name in known}
    if len(state) < len(tensors):
        raise ValueError(f"there is no {sorted(set(tensors) - known)[0]} in it")
    missing, _ = network.load_state_dict(state, strict=False)
    owned = {id(network.state_dict(keep_vars=True)[name]) for name in state}
    for name in missing:  # safetensors keeps only one of the names of a shared tensor
        if id(network.state_dict(keep_vars=True)[name]) not in owned:
            raise ValueError(f"it lacks {name}")


def remove_norms_(network: nn.Module, folded: Mapping[str, str]) -> None:
    """Removes batch norms from ``network`` and gives the layer of each a bias, if it has none.
    Weights are not changed. ValueError or AttributeError if there are no such layers.

    folded: the names of the norms, each with the name of the layer before it.
    """
    for norm, name in folded.items():
        batch_norm(network, norm)
        layer = weighted_layer(network, name)
        if layer.bias is None:
            width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            layer.bias = nn.Parameter(layer.weight.new_zeros(width))
        network.set_submodule(norm, nn.Identity())
