"""What is done to a training batch before it is seen?

Each is a function ``(pixels, generator) -> pixels`` of uint8 (N, H, W, C) pictures; what it draws
it draws from ``generator``, on the CPU.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["crop", "crop_flip", "flip", "none"]


def none(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures as they are."""
    return pixels


def flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(pixels), generator=generator).to(pixels.device) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)


def crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture shifted by up to an eighth of its sides; what enters is black.

    The window of the usual "pad by 4, crop to 32" of CIFAR-10.
    """
    count, height, width, channels = pixels.shape
    up, left = max(1, height // 8), max(1, width // 8)
    padded = F.pad(pixels, (0, 0, left, left, up, up))
    rows, columns = 2 * up + 1, 2 * left + 1
    picture, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (count, rows, columns, height, width, channels),
        (picture, row, column, row, column, channel),
    )
    down = torch.randint(rows, (count,), generator=generator).to(pixels.device)
    right = torch.randint(columns, (count,), generator=generator).to(pixels.device)
    return windows[torch.arange(count, device=pixels.device), down, right]


def crop_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Crop, then flip: what CIFAR-10 is usually trained with."""
    return flip(crop(pixels, generator), generator)
