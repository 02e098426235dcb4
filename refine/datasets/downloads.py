"""How are the public data sets read that torchvision downloads?"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refine.datasets.images import Images, RawData, resized
from refine.errors import SettingError


def cifar10(root: str, image_size: int | None) -> RawData:
    """CIFAR-10 (Krizhevsky 2009)."""
    return _load("CIFAR10", "cifar-10-python.tar.gz", root, image_size)


def cifar100(root: str, image_size: int | None) -> RawData:
    """CIFAR-100 (Krizhevsky 2009)."""
    return _load("CIFAR100", "cifar-100-python.tar.gz", root, image_size)


def fashion_mnist(root: str, image_size: int | None) -> RawData:
    """Fashion-MNIST (Xiao et al. 2017), grey in three equal channels."""
    return _load("FashionMNIST", "FashionMNIST/raw/*.gz", root, image_size)


def _load(name: str, files: str, root: str, image_size: int | None) -> RawData:
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, name)
    home = Path(root).expanduser()
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    try:
        train, test = (dataset(home, train=part, download=True) for part in (True, False))
    except Exception as error:  # torchvision raises many types
        if missing:  # torchvision has made directories before it failed
            shutil.rmtree(missing[-1], ignore_errors=True)
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise SettingError(
            "dataset.root",
            f"{name} is not in {home.absolute()} and could not be downloaded ({reason}). "
            f"Either put {files} there yourself,\nor give class folders: "
            "dataset=image_folder dataset.root=DIR with DIR/train/CLASS/*.png and DIR/test/…",
        ) from error
    return RawData(_images(train, image_size), _images(test, image_size), list(train.classes))


def _images(dataset: Any, image_size: int | None) -> Images:
    pixels = torch.as_tensor(np.asarray(dataset.data))
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(-1)
    return Images(resized(pixels, image_size), torch.as_tensor(dataset.targets, dtype=torch.long))
