"""How is a network written so that it can be built again, and nothing of the file is executed?

A file of safetensors: the tensors, which also say how wide every layer is, and in its head, as
JSON under ``refine``, what builds the network: the name of a function of refine.models, its
arguments, and which batch norms were folded into the layer before them. A sparse one is the same
with its zeros left out, compressed (refine/cache/coding.py).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import refine.models as models
from refine.cache.coding import SHAPE, decoded, dense, encoded, packed, unpacked
from refine.config.instantiate import parameters_of
from refine.errors import NetworkError
from refine.records.files import written_whole
from refine.sparsity.shrink import reshape_

KEY, VERSION = "refine", 1
WHOLE = "whole/"  # before the name of a tensor that is kept as it is
SPARSE_ENDING = ".safetensors.z"
LEAST_ZEROS = 0.1  # share from which a tensor is written without them
# What a file without zeros stands for may take 1 GiB, or so many times its own size: 1,000 times
# is a sparsity of more than 99.9 %.
FREE_BYTES, TIMES = 1 << 30, 1000


@dataclass(frozen=True)
class Description:
    """What a file says of its network beside the tensors.

    function, arguments: that of refine.models which builds it, and with what; None where other code
    does, which ``load_model`` is then given. folded: batch norms that are gone, each with the layer
    that does their work. input_shape: (channels, height, width); mean, deviation: of each channel
    of the training images as numbers from 0 to 1, by which inputs are normalised; classes: their
    names.
    """

    function: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()


def write(path: Path, model: nn.Module, description: Description, *, sparse: bool = False) -> None:
    """Writes ``model`` to ``path``, whole or not at all; ``sparse``: without its zeros, compressed.
    NetworkError if its state is more than tensors."""
    content = content_of(model, description, sparse=sparse)
    with written_whole(path) as part:
        part.write_bytes(content)


def content_of(model: nn.Module, description: Description, *, sparse: bool = False) -> bytes:
    """What ``write`` writes."""
    state = model.state_dict()
    if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise NetworkError(f"its state is more than tensors: {strange[0]}")
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
    head = {KEY: as_text(description)}
    if not sparse:
        return safetensors.torch.save(tensors, head)
    parts = {
        name: (tensor != 0, tensor[tensor != 0])
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.eq(0).float().mean() >= LEAST_ZEROS
    }
    whole = {WHOLE + name: tensor for name, tensor in tensors.items() if name not in parts}
    return encoded(whole | packed(parts), head)


def as_text(description: Description) -> str:
    """A description as JSON, as it stands in a file's head under ``refine``."""
    return json.dumps({"version": VERSION} | asdict(description), sort_keys=True)


def read(path: Path | str) -> tuple[dict[str, Tensor], Description | None]:
    """Tensors and description in a file; no description in a run's own model.safetensors.
    NetworkError, which says why, for what is no network."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NetworkError(f"{path} cannot be read ({error.strerror})") from None
    try:
        if path.name.endswith(SPARSE_ENDING):
            tensors, head = decoded(content)
            _check_size(tensors, len(content))
            parts = unpacked(tensors)
            whole = {n.removeprefix(WHOLE): t for n, t in tensors.items() if n.startswith(WHOLE)}
            tensors = whole | {name: dense(*part) for name, part in parts.items()}
        else:
            tensors = safetensors.torch.load(content)
            size = int.from_bytes(content[:8], "little")
            head = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise NetworkError(f"{path} holds no network: {reason:.100}") from None
    except MemoryError:
        raise NetworkError(f"{path} holds no network: it asks for too much memory") from None
    try:
        return tensors, _description(head[KEY]) if KEY in head else None
    except KeyError as error:
        problem = f"it lacks {error}"
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = " ".join(str(error).split())
    raise NetworkError(f"{path}: what it says of its network is damaged: {problem:.100}")


def _check_size(tensors: Mapping[str, Tensor], size: int) -> None:
    """ValueError if tensors without their zeros, in a file of ``size`` bytes, stand for far more
    numbers than any network that is worth keeping."""
    shapes = [t.tolist() for name, t in tensors.items() if name.startswith(SHAPE) and t.dim() == 1]
    wanted = 4 * sum(abs(prod(shape)) for shape in shapes)
    if wanted > max(FREE_BYTES, TIMES * size):
        raise ValueError(f"{size:,} bytes that stand for {wanted:,}")


def load_model(path: Path | str, network: nn.Module | None = None) -> nn.Module:
    """The network in a file that ``refine-export`` or ``refine-run`` wrote, on the CPU, in
    evaluation mode.

    Nothing in the file is executed: it holds numbers, and the name of one of refine.models'
    functions. network: for one that is built by other code, a network of it, of any width, such as
    as it was before training; it is changed. NetworkError says what does not fit.
    """
    return rebuilt(path, *read(path), network)


def rebuilt(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    description: Description | None,
    network: nn.Module | None = None,
) -> nn.Module:
    """The network of what ``read(path)`` gave, as ``load_model`` returns it."""
    described = network is None
    if described:
        if description is None or description.function is None:
            raise NetworkError(
                f"{path} does not say which network it is of; give load_model(path, network=...) "
                "one of the same code, or write it with refine-export"
            )
        network = outline(description)
    folded = description.folded if description else {}
    try:
        for norm, layer in folded.items():
            fold_away_(network, norm, layer)
        if described:
            _fill_(network.eval(), tensors, description)
        else:
            fit_(network, tensors)
    except (AttributeError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise NetworkError(f"{path} is of another network: {reason:.160}") from None
    return network.eval()


def outline(description: Description) -> nn.Module:
    """The network that a description's function of refine.models makes, without memory (on the
    device ``meta``): the numbers in a file can be of any size."""
    if description.function not in models.__all__:
        known = ", ".join(models.__all__)
        raise NetworkError(f"there is no network {description.function!r}; known: {known}")
    make = getattr(models, description.function)
    unknown = set(description.arguments) - parameters_of(make)[0]
    if unknown:
        raise NetworkError(f"{description.function} takes no {sorted(unknown)[0]!r}")
    try:
        with torch.device("meta"):
            return make(**description.arguments)
    except Exception as error:  # numbers that no network can have
        reason = " ".join(str(error).split())
        raise NetworkError(f"{description.function} cannot be built: {reason:.160}") from None


def _fill_(network: nn.Module, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Gives an outline the ``tensors``, once they are known to make a network: it takes no more
    memory than they do, and answers to images of the shape that the file names."""
    if missing := sorted(set(network.state_dict()) - set(tensors)):
        raise ValueError(f"it lacks {missing[0]}")
    reshape_(network, {name: tensor.shape for name, tensor in tensors.items()})
    if description.input_shape:
        with torch.no_grad():
            answers = network(torch.empty(1, *description.input_shape, device="meta"))
        if description.classes and answers.shape[1:] != (len(description.classes),):
            raise ValueError(f"it has {len(description.classes)} classes, and answers others")
    network.to_empty(device="cpu")
    fit_(network, tensors)


def fit_(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives ``network`` the shapes and values of ``tensors``; ValueError or RuntimeError if they
    are of another."""
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


def fold_away_(network: nn.Module, norm: str, layer: str) -> None:
    """Takes a batch norm out of ``network``; the layer before it has a bias from then on. Their
    numbers are not looked at."""
    before = network.get_submodule(layer)
    if not isinstance(network.get_submodule(norm), nn.modules.batchnorm._BatchNorm):
        raise ValueError(f"{norm} is no batch norm")
    if not isinstance(before, nn.modules.conv._ConvNd | nn.Linear):
        raise ValueError(f"{layer} is no convolution or linear layer")
    if before.bias is None:
        width = getattr(before, "out_channels", None) or before.out_features
        before.bias = nn.Parameter(before.weight.new_zeros(width))
    network.set_submodule(norm, nn.Identity())


def _description(text: str) -> Description:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    version = found.pop("version")
    if version != VERSION:
        raise ValueError(f"it is of version {version}, and this program reads {VERSION}")
    for name in ("input_shape", "mean", "deviation", "classes"):
        found[name] = tuple(found[name])
    description = Description(**found)
    numbers = (*description.input_shape, *description.mean, *description.deviation)
    if not all(isinstance(number, int | float) and isfinite(number) for number in numbers):
        raise ValueError("its numbers are none")
    if not all(isinstance(size, int) and size > 0 for size in description.input_shape):
        raise ValueError("its images have no size")
    for mapping in (description.arguments, description.folded):
        if not isinstance(mapping, dict):
            raise ValueError("its arguments are none")
    return description
