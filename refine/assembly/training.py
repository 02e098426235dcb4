"""Which recipe and schedule does a configuration stand for?"""

import logging
from math import floor

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from refine.build import build, parameters_of
from refine.device import Precision
from refine.errors import SettingError
from refine.optimizer_watch import needs_closure
from refine.refinement import RuntimeRefinement
from refine.schedule import Geometric, Never
from refine.trainer import Schedule, Stepper

log = logging.getLogger("refine")


def build_training(
    config: DictConfig, model: nn.Module, steps: int, precision: Precision
) -> tuple[Stepper, torch.optim.lr_scheduler.LRScheduler]:
    """The training step with its optimizer, and the learning rate's schedule over ``steps``
    batches an epoch."""
    trainer = config.trainer
    chosen = {"foreach", "differentiable"} & set(trainer.optimizer)  # which rule fused steps out
    offered = {} if chosen else {"fused": True}
    parameters = list(model.parameters())
    optimizer = build("trainer.optimizer", trainer.optimizer, parameters, offered=offered)
    if needs_closure(optimizer):
        raise SettingError(
            "trainer.optimizer", f"{trainer.optimizer._target_} needs a closure; choose another"
        )
    node = OmegaConf.to_container(trainer.lr_scheduler, resolve=True)
    per = node.pop("per", "epoch")
    total = trainer.epochs * (steps if per == "batch" else 1)
    node = {key: total if value == "total" else value for key, value in node.items()}
    lr_scheduler = build("trainer.lr_scheduler", node, optimizer)
    if "metrics" in parameters_of(lr_scheduler.step)[0]:
        raise SettingError(
            "trainer.lr_scheduler",
            f"{node['_target_']} is steered by a metric; choose one that follows a fixed curve",
        )
    return Stepper(model, optimizer, precision, trainer.label_smoothing), lr_scheduler


def build_schedule(config: DictConfig, refinement: RuntimeRefinement, steps: int) -> Schedule:
    """The schedule of a run of ``steps`` batches an epoch."""
    by_step = config.schedule.by == "step"
    given = {
        "ratio": config.pruner.ratio,
        "length": config.trainer.epochs * (steps if by_step else 1),
        "prunable": refinement.masks.prunable,
        "total": refinement.total_parameters,
    }
    return build("schedule", config.schedule, offered=given)


def check_schedule(
    config: DictConfig, schedule: Schedule, refinement: RuntimeRefinement, steps: int
) -> None:
    """Walks through the cycles from the network as it is: SettingError for what would fail in the
    middle of the run."""
    epochs, surviving, cycles = config.trainer.epochs, refinement.masks.surviving, 0
    for at in range(epochs * (steps if config.schedule.by == "step" else 1) + 1):
        ratio = schedule.due(at, surviving)
        if ratio is None:
            continue
        cycles += 1
        if ratio < 0 and not refinement.regrowth.active:
            raise SettingError(
                "schedule",
                f"lets weights grow back after {config.schedule.by} {at}; set regrowth=random, "
                "or a sparsity that does not fall",
            )
        if at == 0 and ratio > 0 and hasattr(refinement.importance, "observe"):
            raise SettingError(
                "pruner.importance",
                "movement needs training before the first cycle; set schedule.start above 0",
            )
        if ratio < 0:
            surviving += round(-ratio * surviving)
        elif not refinement.regrowth.active or schedule.grows:
            surviving -= floor(ratio * (surviving - 1)) + 1
    if not cycles and not isinstance(schedule, Never):
        log.warning("no cycle is due in %d epochs; see schedule.interval", epochs)
    if isinstance(schedule, Geometric) and not refinement.regrowth.active:
        rest = schedule.to(schedule.target(), surviving)
        if rest is not None and rest > 0:
            raise SettingError(
                "schedule.target_sparsity",
                f"{schedule.target_sparsity:g} is not reached by {cycles} cycles of "
                f"{schedule.ratio:g}; set pruner.ratio, schedule.interval or trainer.epochs",
            )
