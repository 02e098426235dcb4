"""How is a network written so that it can be built again, and nothing of the file is executed?

The file is of safetensors: the tensors, whose shapes say how wide every layer is, and in its
header, as JSON under ``refine``, what builds the network (refine/stored/description.py). A sparse
file is the same without the zeros, compressed (refine/cache/coding.py).
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from refine.cache.coding import SHAPE, decoded, dense, encoded, packed, unpacked
from refine.errors import NetworkError
from refine.records.files import written_whole
from refine.stored.description import KEY, Description, as_text, from_text
from refine.stored.rebuild import rebuild

__all__ = ["KEY", "Description", "as_text", "content_of", "load_model", "read", "write"]

WHOLE = "whole/"  # before the name of a tensor that is stored with its zeros
SPARSE_ENDING = ".safetensors.z"
LEAST_ZEROS = 0.1  # share of zeros from which a tensor is written without them
# The tensors of a sparse file may take 1 GiB, or this many times the size of the file: 1,000 times
# is a sparsity of more than 99.9 %.
FREE_BYTES, TIMES = 1 << 30, 1000
# How files begin that are taken for networks, and what is said of them.
OF_TORCH = (
    "was written by torch.save or torch.export, which can hold code, and is not read: in a process "
    "that trusts it, safetensors.torch.save_file(state_dict, 'net.safetensors') writes its tensors"
)
FOREIGN = {
    b"PK": OF_TORCH,
    b"\x80\x02": OF_TORCH,
    b"runtime-refinement checkpoint": "is the checkpoint of a run: name the run's directory, "
    "or its model.safetensors",
}


def write(path: Path, model: nn.Module, description: Description, *, sparse: bool = False) -> None:
    """Writes ``model`` to ``path``, whole or not at all; ``sparse``: without its zeros, compressed.
    NetworkError if its state holds more than tensors."""
    content = content_of(model, description, sparse=sparse)
    with written_whole(path) as part:
        part.write_bytes(content)


def content_of(model: nn.Module, description: Description, *, sparse: bool = False) -> bytes:
    """The bytes that ``write`` writes."""
    state = model.state_dict()
    if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise NetworkError(f"its state holds more than tensors: {strange[0]}")
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


def read(path: Path | str) -> tuple[dict[str, Tensor], Description | None]:
    """The tensors and the description in a file; a run's own model.safetensors has no description.
    NetworkError says why it cannot be read."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NetworkError(f"{path} cannot be read ({error.strerror})") from None
    for start, what in FOREIGN.items():
        if content.startswith(start):
            raise NetworkError(f"{path} {what}")
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
        return tensors, from_text(head[KEY]) if KEY in head else None
    except KeyError as error:
        problem = f"it lacks {error}"
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = " ".join(str(error).split())
    raise NetworkError(f"{path}: the description of its network is damaged: {problem:.100}")


def _check_size(tensors: Mapping[str, Tensor], size: int) -> None:
    """ValueError if the tensors of a sparse file of ``size`` bytes would take far more memory than
    those of any network that is worth keeping."""
    shapes = [t.tolist() for name, t in tensors.items() if name.startswith(SHAPE) and t.dim() == 1]
    wanted = 4 * sum(abs(prod(shape)) for shape in shapes)
    if wanted > max(FREE_BYTES, TIMES * size):
        raise ValueError(f"its {size:,} bytes stand for {wanted:,} bytes of tensors")


def load_model(path: Path | str, network: nn.Module | None = None) -> nn.Module:
    """The network in a file that ``refine-export`` or ``refine-run`` wrote, on the CPU, in
    evaluation mode.

    Nothing in the file is executed: it holds numbers, and the name of a function of refine.models.
    network: needed where other code builds the network: one made by that code, of any width, such
    as the untrained one; it is changed. NetworkError says what does not fit.
    """
    return rebuild(path, *read(path), network)
