"""How are marked positions of tensors, and the values there, coded in few bytes and read again?

A tensor NAME is stored as three: ``values/NAME`` as they are, ``shape/NAME``, and its positions,
either one bit for each element, ``bitmap/NAME``, or, where shorter, the gaps between them,
``gaps/NAME``.
"""

import json
from collections.abc import Mapping
from math import prod

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from refine.cache.files import VALUES, Damaged, compressed, decompressed

SHAPE, BITMAP, GAPS = "shape/", "bitmap/", "gaps/"
Marked = tuple[Tensor, Tensor]  # a mask, and the values where it is True in the order of the index


def encoded(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A file's content."""
    return compressed(safetensors.torch.save(dict(tensors), dict(metadata or {}) or None))


def decoded(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of ``encoded``; Damaged if it is not what was written."""
    whole = decompressed(content)
    try:
        tensors = safetensors.torch.load(whole)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise Damaged(f"damaged ({' '.join(str(error).split()):.80})") from None
    end = 8 + int.from_bytes(whole[:8], "little")
    return tensors, json.loads(whole[8:end]).get("__metadata__", {})


def packed(parts: Mapping[str, Marked]) -> dict[str, Tensor]:
    """The parts as tensors for ``encoded``."""
    tensors = {}
    for name, (mask, values) in parts.items():
        prefix, codes = _positions(mask.cpu().reshape(-1).numpy())
        tensors[prefix + name] = torch.from_numpy(codes)
        tensors[VALUES + name] = values.cpu()
        tensors[SHAPE + name] = torch.tensor(mask.shape, dtype=torch.int64)
    return tensors


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Marked]:
    """What ``packed`` was given, to the bit; Damaged if the tensors do not fit together."""
    parts = {}
    # Sorted, as safetensors returns them in varying order.
    for name in sorted(key.removeprefix(VALUES) for key in tensors if key.startswith(VALUES)):
        try:
            shape = tensors[SHAPE + name].tolist()
            if GAPS + name in tensors:
                mask = _from_gaps(tensors[GAPS + name].numpy(), prod(shape))
            else:
                mask = _from_bitmap(tensors[BITMAP + name].numpy(), prod(shape))
            parts[name] = torch.from_numpy(mask).reshape(shape), tensors[VALUES + name]
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, MemoryError):
            raise Damaged(f"damaged: its positions of {name} fit no tensor") from None
        if parts[name][1].shape != (np.count_nonzero(mask),):
            raise Damaged(f"damaged: it does not have a value for each position of {name}")
    return parts


def dense(mask: Tensor, values: Tensor) -> Tensor:
    """The whole tensor, 0 where nothing is marked."""
    whole = torch.zeros(mask.shape, dtype=values.dtype)
    whole[mask] = values
    return whole


def _positions(mask: np.ndarray) -> tuple[str, np.ndarray]:
    """The shorter of both codes: gaps if less than about 12 % are marked. At 1 % they are a third
    smaller than the bitmap even when both are compressed."""
    most_gaps = np.count_nonzero(mask) + 1 + mask.size // 255
    if most_gaps >= mask.size // 8:
        return BITMAP, np.packbits(mask)
    # How many elements that are not marked come before each marked one, and after the last. A byte
    # of 255 stands for 255 of them, and the next byte adds more.
    ends = np.append(np.flatnonzero(mask), mask.size)
    steps, rest = np.divmod(np.diff(ends, prepend=-1) - 1, 255)
    codes = np.full(len(ends) + int(steps.sum()), 255, dtype=np.uint8)
    codes[np.cumsum(steps + 1) - 1] = rest
    return GAPS, codes


def _from_gaps(codes: np.ndarray, size: int) -> np.ndarray:
    if codes.dtype != np.uint8:
        raise ValueError("another type")
    ends = np.cumsum(codes, dtype=np.int64)[codes < 255]
    ends += np.arange(len(ends))
    if ends[-1] != size:  # so that a few bytes cannot ask for a huge tensor
        raise ValueError("another size")
    mask = np.zeros(size, dtype=bool)
    mask[ends[:-1]] = True
    return mask


def _from_bitmap(codes: np.ndarray, size: int) -> np.ndarray:
    if codes.shape != ((size + 7) // 8,):  # numpy would add zeros
        raise ValueError("another size")
    return np.unpackbits(codes, count=size).view(bool)
