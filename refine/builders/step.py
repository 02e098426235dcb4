"""Which training step, with which optimizer, does ``trainer`` describe?"""

from torch import nn

from refine.config.instantiate import build
from refine.config.schema import TrainerConfig
from refine.distillation import Distillation
from refine.errors import SettingError
from refine.regularization import Regularizer
from refine.sparsity.closures import needs_closure
from refine.training.device import Precision
from refine.training.step import Stepper


def build_stepper(
    node: TrainerConfig,
    model: nn.Module,
    precision: Precision,
    distillation: Distillation,
    regularizer: Regularizer | None,
) -> Stepper:
    """The training step with its optimizer."""
    chosen = {"foreach", "differentiable"} & set(node.optimizer)  # these exclude fused steps
    offered = {} if chosen else {"fused": True}
    parameters = list(model.parameters())
    optimizer = build("trainer.optimizer", node.optimizer, parameters, offered=offered)
    if needs_closure(optimizer):
        problem = f"{node.optimizer['_target_']} needs a closure; choose another"
        raise SettingError("trainer.optimizer", problem)
    return Stepper(model, optimizer, precision, node.label_smoothing, distillation, regularizer)
