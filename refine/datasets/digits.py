"""How are the digits read, which need no download?"""

import numpy as np
import torch

from refine.datasets.images import Images, RawData, resized

TEST_IMAGES = 360  # a fifth; the split never depends on the run's seed


def digits(root: str, image_size: int | None) -> RawData:
    """The 1,797 handwritten 8x8 digits that scikit-learn carries (UCI, 1998)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    pixels = torch.from_numpy((found.images * (255 / 16)).round().astype(np.uint8))
    pixels = resized(pixels.unsqueeze(-1), image_size)
    every = Images(pixels, torch.from_numpy(found.target.astype(np.int64)))
    train, test = train_test_split(
        torch.arange(len(every)), test_size=TEST_IMAGES, stratify=found.target, random_state=0
    )
    return RawData(every[train], every[test], list("0123456789"))
