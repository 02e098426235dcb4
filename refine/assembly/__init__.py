"""What does a configuration stand for, put together?"""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from refine.assembly.model import build_model
from refine.assembly.refinement import begin_, build_refinement, build_replay
from refine.assembly.training import build_schedule, build_training, check_schedule
from refine.checkpoint import Parts
from refine.datasets.images import Loader
from refine.datasets.prepare import Data
from refine.device import Precision
from refine.randomness import stream
from refine.rows import EpisodeRow
from refine.schedule import Adaptive
from refine.trainer import Position

__all__ = ["assembled", "build_model"]


def assembled(
    config: DictConfig,
    model: nn.Module,
    data: Data,
    precision: Precision,
    check: Callable[[], None] = lambda: None,
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
    *,
    fresh: bool = True,
) -> tuple[dict[str, Any], Parts]:
    """What ``train`` is given, and what of it changes as it goes on. ``check`` is called after
    every step of a replay, ``on_episode`` after every trial of a controller; ``fresh`` is False
    where a checkpoint says what the network begins as."""
    trainer = config.trainer
    generator = torch.Generator().manual_seed(config.seed)
    steps = len(data.training(trainer.batch_size, generator))
    stepper, lr_scheduler = build_training(config, model, steps, precision)
    replay = build_replay(config.replay, config.seed, precision)

    def replay_step(images: Tensor, labels: Tensor) -> Tensor:
        loss, _ = stepper(images, labels)
        check()
        return loss

    refinement = build_refinement(config, model, replay, stepper.optimizer, replay_step, on_episode)
    schedule = build_schedule(config, refinement, steps)
    if fresh:
        begin_(config, refinement)
        check_schedule(config, schedule, refinement, steps)

    def scoring(cycle: int) -> Loader:
        seed = stream(config.seed, "scoring", cycle)
        return data.sample(config.pruner.scoring_batches, trainer.batch_size, seed)

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
        "tolerance": schedule.tolerance if isinstance(schedule, Adaptive) else None,
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
