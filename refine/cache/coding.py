"""How do marked positions of tensors, and the values there, become few bytes and come back?

A tensor NAME is three: ``values/NAME`` as they are, ``shape/NAME``, and its positions: a bit for
each element, ``bitmap/NAME``, or where that is longer the gaps between them, ``gaps/NAME``.
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
Marked = tuple[Tensor, Tensor]  # boolean, and the values where it is True, in the index's order


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
    """The parts as tensors to encode."""
    tensors = {}
    for name, (mask, values) in parts.items():
        kind, codes = _positions(mask.cpu().reshape(-1).numpy())
        tensors[kind + name] = torch.from_numpy(codes)
        tensors[VALUES + name] = values.cpu()
        tensors[SHAPE + name] = torch.tensor(mask.shape, dtype=torch.int64)
    return tensors


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Marked]:
    """The parts that ``packed`` made these of, to the bit; Damaged if they do not fit together."""
    parts = {}
    # Sorted: safetensors gives them in an order that changes from time to time.
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
    """The smaller of both codes: gaps below some 12 % marked; at 1 % they are a third smaller
    than the bitmap even when both are compressed."""
    most_gaps = np.count_nonzero(mask) + 1 + mask.size // 255
    if most_gaps >= mask.size // 8:
        return BITMAP, np.packbits(mask)
    # How many are not marked before each marked one, and after the last. 255 means that at least
    # so many follow, and the rest in the next byte.
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
    if ends[-1] != size:  # so a few bytes cannot ask for a huge tensor either
        raise ValueError("another size")
    mask = np.zeros(size, dtype=bool)
    mask[ends[:-1]] = True
    return mask


def _from_bitmap(codes: np.ndarray, size: int) -> np.ndarray:
    if codes.shape != ((size + 7) // 8,):  # numpy would fill up with zeros
        raise ValueError("another size")
    return np.unpackbits(codes, count=size).view(bool)
