"""Which weights does a cut take?

An importance scores the weights, an allocation says how many each tensor loses, and a granularity
which of them go together. The names of what these take and give:
"""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from refine.batches import Batch

__all__ = ["Allocation", "Batches", "Counts", "Importance", "Loss", "Scores", "Tensors"]

Batches = Iterable[Batch]  # (inputs, targets) on the model's device
Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> mean
Tensors = Mapping[str, Tensor]  # by the name of a parameter
Scores = dict[str, Tensor]  # of the parameters' shapes; the lowest go first
Counts = dict[str, int]  # how many weights of each tensor
# (model, batches) -> scores; ``loss`` and ``names`` are given to those that take them
Importance = Callable[..., Scores]
# (scores, masks, ratio) -> counts; a mask is True where a weight lives
Allocation = Callable[[Tensors, Tensors, float], Counts]
