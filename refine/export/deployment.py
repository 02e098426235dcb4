"""What is exported, and against what is a file of it checked?"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from refine.datasets.prepare import Data
from refine.evaluation.accuracy import Score, accuracy
from refine.export.network_file import Description

CHECKED = 256  # real test images whose answers are compared


@dataclass(frozen=True)
class Deployment:
    """``network``: what is written; ``before``: the network as the run left it; ``dense``: as it
    was before training. All on the CPU, in evaluation mode; ``network`` lies in memory as other
    programs expect it, channel after channel."""

    network: nn.Module
    before: nn.Module
    dense: nn.Module
    description: Description
    data: Data

    @cached_property
    def images(self) -> Tensor:
        """Test images as the network takes them, (N, C, H, W)."""
        parts = [images for images, _ in self.data.plain(self.data.test[:CHECKED])]
        return torch.cat(parts).contiguous()

    @cached_property
    def _answers(self) -> Tensor:
        with torch.no_grad():
            return self.before(self.images)

    def difference(self, answers: Tensor) -> float:
        """The greatest difference of ``answers`` to ``images`` from the run's network's."""
        return float((answers - self._answers).abs().max())

    @cached_property
    def accuracy(self) -> float:
        """Of the run's network, in single precision, on all test images."""
        return self.score(self.before).accuracy

    def score(self, network: nn.Module) -> Score:
        """Of any network, or what answers like one, on all test images."""
        return accuracy(network, self.data.plain(self.data.test))


@dataclass(frozen=True)
class Written:
    """A file. difference: the greatest one of its answers to real test images from those of the
    run's network; accuracy: on all test images, where it was measured; how: in words, how it was
    made and checked."""

    file: str
    bytes: int
    difference: float
    how: str
    accuracy: float | None = None
