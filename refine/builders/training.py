"""Which training recipe does a configuration stand for?"""

from omegaconf import DictConfig
from torch import nn

from refine.config.instantiate import build
from refine.distillation import Distillation
from refine.errors import SettingError
from refine.regularization import Regularizer
from refine.sparsity.optimizers import needs_closure
from refine.training.device import Precision
from refine.training.step import Stepper


def build_stepper(
    config: DictConfig,
    model: nn.Module,
    precision: Precision,
    distillation: Distillation,
    regularizer: Regularizer | None,
) -> Stepper:
    """The training step with its optimizer."""
    trainer = config.trainer
    chosen = {"foreach", "differentiable"} & set(trainer.optimizer)  # which rule fused steps out
    offered = {} if chosen else {"fused": True}
    parameters = list(model.parameters())
    optimizer = build("trainer.optimizer", trainer.optimizer, parameters, offered=offered)
    if needs_closure(optimizer):
        raise SettingError(
            "trainer.optimizer", f"{trainer.optimizer._target_} needs a closure; choose another"
        )
    return Stepper(model, optimizer, precision, trainer.label_smoothing, distillation, regularizer)
