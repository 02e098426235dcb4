"""How are the outputs of a student and its teacher compared, given what they are trained for?

Each comparison is a function ``(student's, teacher's, temperature) -> distance`` that does not grow
with the number of examples or positions.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from refine.distillation.matching import logits
from refine.objective import Objective, predictions

# By the names of torch's losses, as functions and as modules.
CLASSES = ("cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss")
YES_OR_NO = (
    "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "BCEWithLogitsLoss",
    "MultiLabelSoftMarginLoss",
)  # fmt: skip
VALUES = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "MSELoss", "L1Loss", "SmoothL1Loss",
    "HuberLoss",
)  # fmt: skip

Comparison = Callable[[Tensor, Tensor, float], Tensor]


def at_each_position(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``logits`` where the classes are the last dimension: (N, ..., classes), as of tokens."""
    return logits(student.movedim(-1, 1), teacher.movedim(-1, 1), temperature)


def yes_or_no(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of the student's softened answers from the teacher's, in nats per
    answer: each output is a logit of its own, as with several labels for an example."""
    theirs, own = (part.float() / temperature for part in (teacher, student))
    sure = theirs.sigmoid()
    gap = F.binary_cross_entropy_with_logits(own, sure)
    return temperature**2 * (gap - F.binary_cross_entropy_with_logits(theirs, sure))


def values(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared distance, for regression; there is nothing to soften."""
    return F.mse_loss(student.float(), teacher.float())


def comparison(objective: Objective, made: Any, targets: Tensor) -> Comparison:
    """How outputs like ``made`` are compared, if ``objective`` trains them for ``targets``.

    Integer targets tell classes, and which dimension holds them; else torch's own losses do.
    ValueError if neither does.
    """
    found = predictions(made)
    loss = objective.function
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
    own = objective.loss is None and not isinstance(made, Tensor)  # the network has its own loss
    whole = not targets.is_floating_point()
    if found.dim() >= 2 and found.shape[1] > 1 and not own and name in CLASSES:
        return logits
    if whole and found.dim() == targets.dim() + 1:
        if found.shape[-1] > 1 and found.shape[:-1] == targets.shape:
            return logits if found.dim() == 2 else at_each_position
        if found.shape[1] > 1 and found.shape[2:] == targets.shape[1:]:
            return logits
    if name in YES_OR_NO:
        return yes_or_no
    if name in VALUES or (own and not whole and targets.shape == found.reshape(-1).shape):
        return values
    raise ValueError(
        f"outputs of shape {tuple(found.shape)} for targets of shape {tuple(targets.shape)} do not "
        "say what they are, so that a teacher's cannot be compared with them; name it: "
        "Distillation(teacher, match=...) with a function of refine.distillation.task"
    )
