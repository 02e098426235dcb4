"""How is a training batch augmented?

Each is a function ``(pixels, generator) -> pixels`` of uint8 (N, H, W, C) pictures. Its random
draws are from ``generator``, on the CPU.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["crop", "crop_flip", "flip", "none", "shift_flip"]


def none(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures as they are."""
    return pixels


def flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(pixels), generator=generator).to(pixels.device) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)


def crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture shifted by up to an eighth of its sides; the uncovered edge is black.

    The window of the usual "pad by 4, crop to 32" of CIFAR-10.
    """
    up, left = _reach(pixels)
    return _window(F.pad(pixels, (0, 0, left, left, up, up)), pixels.shape, generator)


def crop_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """``crop``, then ``flip``: the usual augmentation of CIFAR-10."""
    return flip(crop(pixels, generator), generator)


def shift_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """As ``crop_flip``, but the uncovered edge mirrors the picture instead of being black."""
    up, left = _reach(pixels)
    rows, columns = (
        _mirrored(size, reach, pixels.device)
        for size, reach in zip(pixels.shape[1:3], (up, left), strict=True)
    )
    padded = pixels[:, rows][:, :, columns]
    return flip(_window(padded, pixels.shape, generator), generator)


def _reach(pixels: Tensor) -> tuple[int, int]:
    """The greatest shift: an eighth of the height and of the width, at least 1 pixel."""
    return max(1, pixels.shape[1] // 8), max(1, pixels.shape[2] // 8)


def _mirrored(size: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach … size + reach - 1, mirrored at 0 and size - 1 into the picture."""
    indices = torch.arange(-reach, size + reach, device=device).abs()
    return torch.where(indices < size, indices, 2 * (size - 1) - indices).clamp(min=0)


def _window(padded: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Of each padded picture a window of the unpadded ``shape``, at a random place."""
    count, height, width, channels = shape
    rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    picture, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (count, rows, columns, height, width, channels),
        (picture, row, column, row, column, channel),
    )
    down = torch.randint(rows, (count,), generator=generator).to(padded.device)
    right = torch.randint(columns, (count,), generator=generator).to(padded.device)
    return windows[torch.arange(count, device=padded.device), down, right]
