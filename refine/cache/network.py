"""How is a whole sparse network stored in a small file, and read again?"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from refine.cache.coding import decoded, dense, encoded, packed, unpacked
from refine.cache.files import named
from refine.errors import SettingError
from refine.records.files import written_whole

ABOUT = "refine"  # the key of a description in a file's header
WHOLE = "whole/"  # before the name of a tensor that is stored as it is


class Network(NamedTuple):
    """A network that was read. ``state``: parameters and buffers by name, 0 where cut; ``masks``:
    of each prunable tensor, True where a weight lived; ``ties``: further names of tensors, each
    with the tensor's name in ``state``."""

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    ties: dict[str, str]

    def write(self, path: Path, about: str | None = None) -> None:
        """Writes the file that ``refine.training.checkpoint.save_model`` would, to the byte."""
        with written_whole(path) as part:
            head = header(self.ties, about)
            safetensors.torch.save_file(self.state, part, metadata=head or None)


def read_network(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state and masks in a file that ``Cache.keep_network`` wrote; Damaged, a ValueError that
    names the file, if it is not as it was written."""
    return read(path)[:2]


def read(path: Path) -> Network:
    """The same, and the ties."""
    with named(path):
        tensors, ties = decoded(path.read_bytes())
        parts = unpacked(tensors)
    whole = {name: tensor for name, tensor in tensors.items() if name.startswith(WHOLE)}
    state = {name.removeprefix(WHOLE): tensor for name, tensor in whole.items()}
    state |= {ties.get(name, name): dense(*part) for name, part in parts.items()}
    return Network(state, {name: mask for name, (mask, _) in parts.items()}, ties)


@torch.no_grad()
def keep(path: Path, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Writes the parameters and buffers in the state of ``model``, and the masks, to one file: all
    of it or nothing. Of a tensor with a mask only the weights that live are written.

    SettingError if the state holds more than tensors, or its tensors overlap.
    """
    state = model.state_dict()
    if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        problem = (
            f"this network's state is more than tensors ({strange[0]}) and cannot be kept on disk"
        )
        raise SettingError("cache", f"{problem}; memory keeps only what is cut")
    others = ties(state)
    state = {name: tensor.detach() for name, tensor in state.items() if name not in others}
    parts = {}
    for name, alive in masks.items():
        weight = state.pop(others.get(name, name))
        parts[name] = alive, weight[alive.to(weight.device)]
    tensors = {WHOLE + name: tensor.contiguous().cpu() for name, tensor in state.items()}
    try:
        content = encoded(tensors | packed(parts), others)
    except (RuntimeError, ValueError) as error:  # how safetensors says it
        raise SettingError("cache", f"cannot keep this network: {error!s:.120}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_bytes(content)


def ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For tensors with several names, each further name with the one to keep: the alphabetically
    first, as in ``safetensors.torch.save_model``."""
    names: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in sorted(state.items()):
        same = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        names.setdefault(same if tensor.numel() else (name,), []).append(name)
    return {name: first for first, *others in names.values() for name in others}


def header(ties: Mapping[str, str], about: str | None) -> dict[str, str]:
    """What the header of a network's file says: its ``ties``, and if there are none what it is
    ``about``. Two entries would stand there in an order that differs from file to file."""
    return dict(ties) or ({} if about is None else {ABOUT: about})
