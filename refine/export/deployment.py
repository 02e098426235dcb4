"""What is exported, and against what is an exported file checked?"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from refine.datasets.prepare import Data
from refine.evaluation.accuracy import Score, accuracy
from refine.export.options import TOLERANCE
from refine.stored.description import Description

CHECKED = 256  # real test images on which outputs are compared


@dataclass(frozen=True)
class Deployment:
    """``network``: what is written; ``before``: the network as the run left it; ``dense``: the
    untrained network. All are on the CPU, in evaluation mode. The tensors of ``network`` are
    contiguous (NCHW), as other programs expect them. tolerance: how much accuracy, as a fraction, 8
    bits may cost."""

    network: nn.Module
    before: nn.Module
    dense: nn.Module
    description: Description
    data: Data
    tolerance: float = TOLERANCE

    @cached_property
    def images(self) -> Tensor:
        """Test images as the network takes them, (N, C, H, W)."""
        parts = [images for images, _ in self.data.plain(self.data.test[:CHECKED])]
        return torch.cat(parts).contiguous()

    @cached_property
    def _logits(self) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.before(self.images)
        return logits

    def of_other_code(self) -> nn.Module | None:
        """For ``load_model``: a copy of the untrained network if refine.models has no such one."""
        return deepcopy(self.dense) if self.description.function is None else None

    def difference(self, logits: Tensor) -> float:
        """The greatest difference of ``logits`` for ``images`` from those of the run's network."""
        return float((logits - self._logits).abs().max())

    @cached_property
    def accuracy(self) -> float:
        """The accuracy of the run's network, in single precision, on all test images."""
        return self.score(self.before).accuracy

    def score(self, network: nn.Module) -> Score:
        """Accuracy and loss of any network on all test images."""
        return accuracy(network, self.data.plain(self.data.test))


@dataclass(frozen=True)
class Written:
    """A file that was written. difference: the greatest difference of its logits for real test
    images from those of the run's network. accuracy: on all test images, where it was measured.
    how: a phrase that says how the file was made and checked."""

    file: str
    bytes: int
    difference: float
    how: str
    accuracy: float | None = None
