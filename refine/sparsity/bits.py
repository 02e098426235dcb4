"""How is a mask kept small in a file? Eight weights a byte."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


def packed(mask: Tensor) -> Tensor:
    """A boolean tensor as bytes, in the order of the index, the first weight in the highest bit."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of ``packed``, on the CPU."""
    flat = np.unpackbits(bits.cpu().numpy(), count=prod(shape))
    return torch.from_numpy(flat.astype(bool)).reshape(tuple(shape))
