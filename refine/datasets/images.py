"""How is a data set held in memory, and how does it give its batches?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Images:
    """Pictures, uint8 (N, H, W, C), which is channels_last, and their classes, int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> "Images":
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Images":
        """The same images on another device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RawData:
    """A data set as its function reads it, before it is split and sampled."""

    train: Images
    test: Images
    classes: list[str]


def resized(pixels: Tensor, size: int | None) -> Tensor:
    """uint8 (N, H, W, C) pictures resized to (N, size, size, 3); grey becomes three channels."""
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(*pixels.shape[:-1], 3)
    if size is None or tuple(pixels.shape[1:3]) == (size, size):
        return pixels.contiguous()
    done = []
    for part in pixels.split(1000):  # 1,000 at a time limit the memory of the float copy
        planes = part.permute(0, 3, 1, 2).float()
        planes = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        done.append(planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    return torch.cat(done).contiguous()


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, in units of 0 to 255: two (C,) tensors."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Images) -> "Normalization":
        """The channels' moments over ``images``, from their exact histograms."""
        values = torch.arange(256, dtype=torch.float64)
        flat = images.pixels.reshape(-1, images.pixels.shape[-1])
        counts = torch.stack([torch.bincount(c, minlength=256).cpu() for c in flat.unbind(1)])
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = (share * values).sum(1)
        std = ((share * values**2).sum(1) - mean**2).clamp(min=0).sqrt().clamp(min=1)
        device = images.pixels.device
        return cls(mean.float().to(device), std.float().to(device))


class Loader:
    """Normalised batches of images on the device: float (N, C, H, W), channels_last, and labels.

    Each pass draws a new order and new augmentations from ``generator``, which is on the CPU so
    that a seed gives the same on every device. Without a generator the images come in their order
    and are not augmented.
    """

    def __init__(
        self,
        images: Images,
        normalization: Normalization,
        batch_size: int,
        *,
        augment: Augmentation | None = None,
        generator: torch.Generator | None = None,
    ):
        self.images = images
        self.batch_size = batch_size
        self.augment = augment
        self.generator = generator
        # One row of a picture is W x C numbers side by side: with factors of that shape the
        # arithmetic is vectorised over long runs, 7 times faster than over 3 channels at a time.
        width = images.pixels.shape[2]
        self._scale = (1 / normalization.std).repeat(width)
        self._shift = (-normalization.mean / normalization.std).repeat(width)

    def __len__(self) -> int:
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 1 or (rest == 1 and (self.generator is None or full == 0)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, size = len(self.images), self.batch_size
        if self.generator is not None:
            order = torch.randperm(count, generator=self.generator)
            order = order.to(self.images.pixels.device)
        # A training batch of one image would stop batch norm, so __len__ leaves it out.
        for batch in range(len(self)):
            part = slice(batch * size, (batch + 1) * size)
            chosen = self.images[part if self.generator is None else order[part]]
            pixels = chosen.pixels
            if self.augment is not None and self.generator is not None:
                pixels = self.augment(pixels, self.generator)
            yield self._normalized(pixels), chosen.labels

    def _normalized(self, pixels: Tensor) -> Tensor:
        rows = pixels.reshape(len(pixels), pixels.shape[1], -1).float()
        rows = torch.addcmul(self._shift, rows, self._scale)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)
