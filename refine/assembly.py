"""Which network, refinement and recipe does a configuration stand for?"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from refine.build import build, function, parameters_of
from refine.checkpoint import Parts
from refine.datasets.images import Loader
from refine.datasets.prepare import Data
from refine.device import Precision
from refine.errors import SettingError
from refine.evaluation.accuracy import in_mode
from refine.masks import prunable_names
from refine.optimizer_watch import needs_closure
from refine.pruning.bounds import Bounded
from refine.pruning.reference import Reference
from refine.pruning.regrowth import Regrowth
from refine.refinement import RuntimeRefinement
from refine.replay import Replay
from refine.rows import EpisodeRow
from refine.schedule import Adaptive, Never
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
    config: DictConfig,
    model: nn.Module,
    replay: Replay,
    step: Callable[[Tensor, Tensor], Tensor],
    on_episode: Callable[[EpisodeRow], None],
) -> RuntimeRefinement:
    """The refinement that ``pruner`` and ``regrowth`` describe, of a network that begins as
    ``start_from`` and ``pruner.initial_sparsity`` say; ``step`` is one step of its replay."""
    pruner, node = config.pruner, config.regrowth
    importance = function("pruner.importance", pruner.importance, "refine.pruning.importance")
    if isinstance(importance, type):  # one that remembers
        importance = importance()
    allocation, initial = (
        function(f"pruner.{name}", pruner[name], "refine.pruning.allocation")
        for name in ("allocation", "initial_allocation")
    )
    granularity = function("pruner.granularity", pruner.granularity, "refine.pruning.granularity")
    bounded = Bounded(allocation, dict(pruner.layers or {}), pruner.min_layer_density)
    tensors = _tensors("start_from", config.start_from)
    if tensors is not None:
        load_(model, tensors)
    prunable = prunable_names(model)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    share = sum(sizes[name] for name in prunable) / sum(sizes.values())
    try:
        regrowth = build_regrowth(node, config.seed, share, on_episode)
        source = _tensors("regrowth.source", node.source)
        refinement = RuntimeRefinement(
            model,
            importance=importance,
            allocation=bounded,
            granularity=partial(granularity, n=pruner.n, m=pruner.m),
            regrowth=regrowth,
            reference=source and Reference.from_tensors(source, prunable),
            scoring_batches=pruner.scoring_batches,
            trial_steps=node.controller.steps,
            replay=replay.batches,
            downscale_factor=pruner.downscale_factor,
            step=step,
        )
    except ValueError as error:
        raise SettingError("model", str(error)) from error
    try:
        bounded.own(refinement.masks)
    except ValueError as error:
        raise SettingError("pruner.layers", str(error)) from error
    if tensors is not None:
        weights = refinement.masks.weights()
        refinement.masks.cut_({name: weight.detach() == 0 for name, weight in weights.items()})
    if pruner.initial_sparsity:
        if pruner.initial_sparsity >= share:
            raise SettingError(
                "pruner.initial_sparsity", f"must be below {share:.4f}, what can be cut"
            )
        refinement.sparsify(pruner.initial_sparsity / share, initial)
    for name in refinement.granularity.left_out:
        log.info("pruner.granularity=%s leaves %s dense", pruner.granularity, name)
    return refinement


def build_regrowth(
    node: DictConfig, seed: int, share: float, on_episode: Callable[[EpisodeRow], None]
) -> Regrowth:
    """The regrowth that a ``regrowth`` node describes; ``share`` of the parameters is prunable."""
    if node.score == "none":
        return Regrowth(budget=0)
    allocation = function(
        "regrowth.allocation", node.allocation, "refine.pruning.regrowth_allocation"
    )
    if node.allocation == "controller":
        limits = {"episodes": node.controller.episodes, "seconds": node.controller.seconds}
        allocation = partial(allocation, **limits, seed=seed, on_episode=on_episode)
    return Regrowth(
        function("regrowth.score", node.score, "refine.pruning.regrowth_score"),
        allocation,
        function("regrowth.initial", node.initial, "refine.pruning.initial_value"),
        budget=node.budget,
        target_sparsity=node.target_sparsity and node.target_sparsity / share,
        only_epochs=node.only_epochs,
        seed=seed,
    )


def load_(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives the network the parameters and buffers of ``start_from``."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SettingError("start_from", f"is of another network: {reason:.200}") from error


def _tensors(setting: str, path: str | None) -> dict[str, Tensor] | None:
    """Those of a run's directory or of a .safetensors file."""
    if path is None:
        return None
    file = Path(path).expanduser()
    file = file / "model.safetensors" if file.is_dir() else file
    try:
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise SettingError(setting, f"cannot read {file}: {error}") from error


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
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
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

    refinement = build_refinement(config, model, replay, replay_step, on_episode)
    by_step = config.schedule.by == "step"
    given = {
        "ratio": config.pruner.ratio,
        "length": trainer.epochs * (steps if by_step else 1),
        "prunable": refinement.masks.prunable,
        "total": refinement.total_parameters,
    }
    schedule = build("schedule", config.schedule, offered=given)
    moments = range(given["length"] + 1)
    due = any(schedule.due(at, refinement.masks.prunable) is not None for at in moments)
    if not due and not isinstance(schedule, Never):
        log.warning("no cycle is due in %d epochs; see schedule.interval", trainer.epochs)
    tolerance = schedule.tolerance if isinstance(schedule, Adaptive) else None

    def scoring(cycle: int) -> Loader:
        batches = config.pruner.scoring_batches
        return data.sample(batches, trainer.batch_size, config.seed + 1_000_003 * cycle)

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
        "scoring": scoring,
        "tolerance": tolerance,
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
