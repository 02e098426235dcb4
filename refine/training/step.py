"""How is one training step taken?"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.distillation import Distillation
from refine.regularization import Regularizer
from refine.training.device import Precision


@dataclass
class Stepper:
    """One training step, of an epoch or a replay; only in epochs does the learning rate change."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    label_smoothing: float = 0.0
    distillation: Distillation = field(default_factory=Distillation)
    regularizer: Regularizer | None = None

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Trains on a batch; returns the mean loss and the number of correct predictions, on the
        device. In a replay, ``weights`` are those of the images and ``places`` their positions in
        its memory."""
        with self.precision.autocast():
            logits, matched = self.distillation.forward(self.model, images)
            loss = self._loss(logits, labels, weights)
            loss = self.distillation.blended(loss, matched, images, places)
        self.optimizer.zero_grad()
        self.precision.backward(loss)
        if self.regularizer is not None and self.regularizer.active:
            self.precision.unscale(self.optimizer)
            self.regularizer.add_gradients_(self.model)
        self.precision.step(self.optimizer)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        each = F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )
        return (each * weights).mean()
