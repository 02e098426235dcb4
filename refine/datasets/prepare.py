"""Which images does a run train, validate and test on?"""

from dataclasses import dataclass

import torch

from refine.datasets.images import Augmentation, Images, Loader, Normalization, RawData
from refine.errors import FieldError

# 500 CIFAR images: from there on a CPU gains no more, and memory stays bounded for large pictures.
PIXELS_SCORED_AT_ONCE = 500 * 32 * 32


@dataclass(frozen=True)
class Data:
    """A run's images on its device, and how they come out in batches."""

    train: Images
    validation: Images | None
    test: Images
    classes: list[str]
    normalization: Normalization
    augment: Augmentation

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        height, width, channels = self.test.pixels.shape[1:]
        return channels, height, width

    def training(self, batch_size: int, generator: torch.Generator) -> Loader:
        """The training images, shuffled and augmented anew in every pass."""
        return Loader(
            self.train, self.normalization, batch_size, augment=self.augment, generator=generator
        )

    def sample(self, batches: int, batch_size: int, seed: int) -> Loader:
        """That many batches of training images drawn by ``seed``, as they are, to score weights
        on; the same in every pass."""
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.train), generator=draw)[: batches * batch_size]
        return Loader(self.train[chosen], self.normalization, batch_size)

    def plain(self, images: Images) -> Loader:
        """Images in their order and as they are, for scoring."""
        height, width = images.pixels.shape[1:3]
        batch_size = max(1, min(len(images), PIXELS_SCORED_AT_ONCE // (height * width)))
        return Loader(images, self.normalization, batch_size)


def prepare(
    raw: RawData,
    augment: Augmentation,
    seed: int,
    device: torch.device,
    *,
    subset_size: int = 0,
    validation_size: int = 0,
    test_size: int = 0,
) -> Data:
    """Chooses the subsets of a data set by ``seed``, holds out validation images, and moves all to
    the device. Mean and deviation are those of the images trained on. A size of 0 is all, or for
    ``validation_size`` none. FieldError for a size that the data does not have."""
    wanted, tested = subset_size or len(raw.train), test_size or len(raw.test)
    if wanted > len(raw.train):
        problem = f"{wanted:,} is more than the {len(raw.train):,} training images; 0 takes all"
        raise FieldError("subset_size", problem)
    if validation_size >= wanted:
        problem = f"{validation_size:,} of {wanted:,} leaves nothing to train on"
        raise FieldError("validation_size", problem)
    if tested > len(raw.test):
        problem = f"{tested:,} is more than the {len(raw.test):,} test images; 0 takes all"
        raise FieldError("test_size", problem)
    draw = torch.Generator().manual_seed(seed)
    chosen = balanced(raw.train.labels, wanted, draw)
    validation = None
    if validation_size:
        inner = balanced(raw.train.labels[chosen], validation_size, draw)
        validation = raw.train[chosen[inner]].to(device)
        rest = torch.ones(wanted, dtype=torch.bool)
        rest[inner] = False
        chosen = chosen[rest]
    train = raw.train[chosen].to(device)
    normalization = Normalization.of(train)
    test = raw.test[balanced(raw.test.labels, tested, draw)].to(device)
    return Data(train, validation, test, raw.classes, normalization, augment)


def balanced(labels: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """Indices of ``count`` entries in ascending order, drawn so that the classes' numbers differ
    by at most one as long as every class has enough."""
    if count == len(labels):
        return torch.arange(count)
    order = torch.randperm(len(labels), generator=draw)
    turn = torch.empty_like(order)  # 0 for the first of its class in ``order``, 1 for the next
    shuffled = labels[order]
    for label in shuffled.unique():
        members = shuffled == label
        turn[members] = torch.arange(int(members.sum()))
    return order[turn.argsort(stable=True)[:count]].sort().values
