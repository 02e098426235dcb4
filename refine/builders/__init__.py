"""What does a configuration stand for, put together?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from refine.builders.channels import build_regularizer, build_structured, example_of
from refine.builders.consolidation import build_cache, build_distillation, build_replay
from refine.builders.model import build_model
from refine.builders.recovery import build_learning_rate, build_rewind
from refine.builders.refinement import begin_, build_refinement
from refine.builders.schedule import build_schedule, check_schedule
from refine.builders.training import build_stepper
from refine.config.instantiate import function
from refine.datasets.course import Course
from refine.datasets.images import Loader
from refine.datasets.prepare import Data
from refine.errors import SettingError
from refine.records.rows import EpisodeRow
from refine.replay import Replayed
from refine.rng import stream
from refine.training.checkpoint import Parts
from refine.training.device import Precision
from refine.training.position import Position

__all__ = ["assembled", "build_course", "build_model"]


def build_course(config: DictConfig, data: Data) -> Course:
    """The tasks that ``dataset.split`` makes of the data, and when each is trained on."""
    split = function("dataset.split", config.dataset.split, "refine.datasets.course")
    try:
        tasks = split(data, config.dataset.tasks, stream(config.seed, "tasks"))
    except ValueError as error:
        named = next((name for name in ("augment", "validation") if name in str(error)), "tasks")
        setting = f"dataset.{named}".replace("validation", "validation_size")
        raise SettingError(setting, str(error)) from None
    try:
        return Course(tasks, config.trainer.epochs)
    except ValueError as error:
        raise SettingError("trainer.epochs", str(error).removeprefix("trainer.epochs=")) from None


def assembled(
    config: DictConfig,
    model: nn.Module,
    course: Course,
    precision: Precision,
    cache_directory: Path,
    check: Callable[[], None] = lambda: None,
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
    *,
    fresh: bool = True,
) -> tuple[dict[str, Any], Parts]:
    """What ``train`` is given, and what of it changes as it goes on. ``check`` is called after
    every step of a replay, ``on_episode`` after every trial of a controller; ``fresh`` is False
    where a checkpoint says what the network begins as."""
    batch_size = config.trainer.batch_size
    generator = torch.Generator().manual_seed(config.seed)
    position = Position()
    distillation = build_distillation(config.distillation, model, course)
    regularizer = build_regularizer(config, model, course)
    stepper = build_stepper(config, model, precision, distillation, regularizer)

    def replay_step(batch: Replayed) -> Tensor:
        loss, _ = stepper(*batch)
        check()
        return loss

    refinement = build_refinement(
        config,
        model,
        stepper.optimizer,
        replay_step,
        on_episode,
        replay=build_replay(config, model, course, position, precision),
        distillation=distillation,
        cache=build_cache(config.cache, cache_directory),
        structured=build_structured(config),
        example=example_of(course),
        regularizer=regularizer,
    )
    schedule = build_schedule(config, refinement, course)
    rewind = build_rewind(config, refinement, schedule, course)
    learning_rate = build_learning_rate(
        config, stepper.optimizer, schedule, course, refinement.prunable
    )
    if rewind:
        refinement.shrinking.append(rewind.shrunk_)
    if fresh:
        begin_(config, refinement)
        check_schedule(config, schedule, refinement, course)

    def scoring(task: Data, cycle: int) -> Loader:
        seed = stream(config.seed, "scoring", cycle)
        return task.sample(config.pruner.scoring_batches, batch_size, seed)

    measured = getattr(schedule, "needs_validation", False)
    return {
        "stepper": stepper,
        "learning_rate": learning_rate,
        "rewind": rewind,
        "recovery_epochs": config.recovery.epochs,
        "refinement": refinement,
        "schedule": schedule,
        "batch_size": batch_size,
        "generator": generator,
        "scoring": scoring,
        "tolerance": getattr(schedule, "tolerance", None) if measured else None,
        "position": position,
    }, Parts(
        stepper=stepper,
        learning_rate=learning_rate,
        rewind=rewind,
        refinement=refinement,
        generator=generator,
        position=position,
    )
