"""What does a student match of its teacher, and how is the distance measured?

Each is a function ``(student's, teacher's, temperature) -> distance`` of what ``answer`` returns.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.batches import Inputs
from refine.evaluation.features import with_features
from refine.objective import outputs, predictions

__all__ = ["features", "logits"]

Match = Callable[[Tensor, Tensor, float], Tensor]


def logits(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the Kullback-Leibler divergence of the student's softened class probabilities from
    the teacher's, in nats per example and position (Hinton et al. 2015, arXiv:1503.02531);
    (N, classes) or, for dense predictions, (N, classes, ...) each."""
    theirs, own = (F.log_softmax(part.float() / temperature, 1) for part in (teacher, student))
    positions = own.numel() // own.shape[1]
    gap = F.kl_div(own, theirs, log_target=True, reduction="sum") / positions
    return temperature**2 * gap


def features(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared distance of the features, in units of the teacher's mean square (after FitNets,
    Romero et al. 2015, arXiv:1412.6550, but without a mapping, so that both networks have as
    many features)."""
    scale = teacher.float().square().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return F.mse_loss(student.float(), teacher.float()) / scale


def answer(model: nn.Module, inputs: Inputs, match: Match) -> tuple[Any, Tensor]:
    """The outputs, and what ``match`` compares: for ``features`` the inputs of the last linear
    layer, else the predictions."""
    if match is not features:
        made = outputs(model, inputs)
        return made, predictions(made)
    return with_features(model, inputs)
