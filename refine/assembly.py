"""Which network, refinement and recipe does a configuration stand for?"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from refine.build import build, function, parameters_of
from refine.checkpoint import Parts
from refine.datasets.prepare import Data
from refine.device import Precision
from refine.errors import SettingError
from refine.evaluation.accuracy import in_mode
from refine.optimizer_watch import needs_closure
from refine.refinement import RuntimeRefinement
from refine.replay import Replay
from refine.trainer import Position, Stepper

log = logging.getLogger("refine")


def build_model(node: DictConfig, data: Data, device: torch.device) -> nn.Module:
    """The network of a ``model`` node, on the device, checked to answer one logit a class."""
    classes = len(data.classes)
    offered = {"num_classes": classes, "image_shape": data.image_shape}
    model = build("model", node, offered=offered)
    if not isinstance(model, nn.Module):
        raise SettingError("model._target_", f"{node._target_} made no nn.Module but {model!r:.60}")
    model = model.to(device, memory_format=torch.channels_last)
    images, _ = next(iter(data.plain(data.train[:2])))
    try:
        with in_mode(model, training=False), torch.no_grad():
            logits = model(images)
    except Exception as error:
        shape = "x".join(map(str, data.image_shape))
        raise SettingError("model", f"cannot take images of {shape}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), classes):
        gives = tuple(getattr(logits, "shape", ())) or type(logits).__name__
        raise SettingError(
            "model",
            f"answers {gives} to {len(images)} images; {classes} classes need ({len(images)}, "
            f"{classes}). Set its number of outputs, such as +model.num_classes={classes}",
        )
    return model


def build_replay(node: DictConfig, seed: int, precision: Precision) -> Replay:
    """The memory that a ``replay`` node describes."""
    return Replay(
        function("replay.selection", node.selection, "refine.replay"),
        node.buffer_size,
        node.steps,
        node.batch_size,
        seed=seed,
        autocast=precision.autocast,
    )


def build_refinement(
    pruner: DictConfig, model: nn.Module, replay: Replay, step: Callable[[Tensor, Tensor], Tensor]
) -> RuntimeRefinement:
    """The refinement that a ``pruner`` node describes; ``step`` is one step of its replay."""
    importance = function("pruner.importance", pruner.importance, "refine.pruning.importance")
    allocation = function("pruner.allocation", pruner.allocation, "refine.pruning.allocation")
    try:
        return RuntimeRefinement(
            model,
            importance=importance,
            allocation=allocation,
            replay=replay.batches,
            downscale_factor=pruner.downscale_factor,
            step=step,
        )
    except ValueError as error:
        raise SettingError("model", str(error)) from error


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


def assembled(
    config: DictConfig,
    model: nn.Module,
    data: Data,
    precision: Precision,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], Parts]:
    """What ``train`` is given, and what of it changes as it goes on. ``check`` is called after
    every step of a replay."""
    trainer = config.trainer
    generator = torch.Generator().manual_seed(config.seed)
    steps = len(data.training(trainer.batch_size, generator))
    stepper, lr_scheduler = build_training(config, model, steps, precision)
    replay = build_replay(config.replay, config.seed, precision)

    def replay_step(images: Tensor, labels: Tensor) -> Tensor:
        loss, _ = stepper(images, labels)
        check()
        return loss

    refinement = build_refinement(config.pruner, model, replay, replay_step)
    given = {
        "ratio": config.pruner.ratio,
        "epochs": trainer.epochs,
        "prunable_share": refinement.masks.prunable / refinement.total_parameters,
    }
    schedule = build("schedule", config.schedule, offered=given)
    due = [epoch for epoch in range(1, trainer.epochs + 1) if schedule.due(epoch) is not None]
    if not due and not config.schedule._target_.endswith(".Never"):
        log.warning("no cycle is due in %d epochs; see schedule.interval", trainer.epochs)
    per = trainer.lr_scheduler.get("per", "epoch")
    position = Position()
    return {
        "stepper": stepper,
        "lr_scheduler": lr_scheduler,
        "scheduler_per": per,
        "refinement": refinement,
        "schedule": schedule,
        "epochs": trainer.epochs,
        "batch_size": trainer.batch_size,
        "generator": generator,
        "position": position,
    }, Parts(
        stepper=stepper,
        lr_scheduler=lr_scheduler,
        lr_steps=lambda at: at.epoch * steps + at.step if per == "batch" else at.epoch,
        refinement=refinement,
        replay=replay,
        generator=generator,
        position=position,
    )
