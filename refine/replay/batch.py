"""What is a batch of a replay?"""

from typing import NamedTuple

from torch import Tensor


class Replayed(NamedTuple):
    """Examples to train on in one step.

    weights: of each example's loss, to correct for how often it is drawn; None: all 1.
    places: where each stands in this cycle's memory, int64: the same place is the same example
        throughout one call of ``batches``; None: drawn anew, never to be met again.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    places: Tensor | None = None
