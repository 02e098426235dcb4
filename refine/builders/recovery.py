"""Which learning rates and weights follow a cut, as ``recovery`` says?"""

import warnings

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from refine.config.instantiate import build, function, parameters_of
from refine.config.schema import RecoveryConfig, RunConfig, TrainerConfig
from refine.datasets.course import Course
from refine.errors import FieldError, SettingError
from refine.recovery import Recovery, WeightRewind, fine_tune, lr_rewind, slr
from refine.refinement import RuntimeRefinement
from refine.training.learning_rate import LearningRate, Schedule, next_due, steps_until_next

CURVES = "refine.recovery"


def build_learning_rate(
    config: RunConfig, optimizer: Optimizer, schedule: Schedule, course: Course, prunable: int
) -> LearningRate:
    """The rate of every step: the trainer's curve, and from the first cut on the recovery's.

    With a recovery the trainer's curve ends with the first cut, and ``total`` is its length then.
    ``prunable``: how many weights can be cut.
    """
    node, trainer = config.recovery, config.trainer
    per = trainer.lr_scheduler.get("per", "epoch")
    epochs, steps = trainer.epochs, course.total_steps
    if node.curve != "none":
        epochs, steps = _original(node, schedule, course, prunable)
    total = steps if per == "batch" else epochs
    length = total or (course.total_steps if per == "batch" else trainer.epochs)
    highest = node.max_lr or float(optimizer.param_groups[0]["lr"])
    scheduler = _scheduler(trainer, optimizer, length)
    curve = None if node.curve == "none" else function("recovery.curve", node.curve, CURVES)
    original: list[float] = []
    if curve and total:
        original = _rates(trainer, total)
        if per == "epoch":  # a rate a step
            original = [original[min(step * epochs // steps, total - 1)] for step in range(steps)]
    if curve in (lr_rewind, fine_tune, slr) and not original and node.min_lr is None:
        raise SettingError("recovery.original_epochs", "is needed where the first cycle comes at 0")
    try:
        recovery = Recovery(
            optimizer,
            curve,
            highest=highest,
            last=node.min_lr,
            original=original,
            cycle_momentum=node.cycle_momentum,
        )
    except FieldError as error:
        raise SettingError(f"recovery.{error.field}", error.problem) from None
    if curve:
        try:  # so that it fails now rather than at the first cut
            float(curve(0, 10, recovery.rates))
        except Exception as error:
            raise SettingError("recovery.curve", f"{node.curve} fails: {error}") from error
    return LearningRate(scheduler, per, length, recovery)


def build_rewind(
    node: RecoveryConfig, refinement: RuntimeRefinement, schedule: Schedule, course: Course
) -> WeightRewind | None:
    """The rewinding of weights after each cut; None if there is none."""
    prunable = refinement.method.prunable
    if not node.rewind_weights:
        return None
    first = _first_epoch(schedule, course, prunable)
    if first is None:
        return WeightRewind(refinement.model, refinement.masks, 0)
    if first == 0:
        raise SettingError(
            "recovery.rewind_weights", "needs training before the first cycle; set schedule.start"
        )
    to = node.rewind_to
    if to is None:
        steps = steps_until_next(schedule, course, first, 0, prunable)
        last = course.steps_before(first + 1) / first
        to = max(0, first - max(1, node.epochs or round(steps / last)))
    if to >= first:
        problem = f"must be below {first}, the epoch of the first cycle, not {to}"
        raise SettingError("recovery.rewind_to", problem)
    return WeightRewind(refinement.model, refinement.masks, to)


def _first_epoch(schedule: Schedule, course: Course, prunable: int) -> int | None:
    """The epoch after or in which the first cycle comes. It is computed as if nothing had been cut
    yet, so that a resumed run finds the same."""
    by_step = schedule.by == "step"
    length = course.total_steps if by_step else course.epochs
    first = next_due(schedule, -1, length, prunable)
    if first is None or not by_step:
        return first
    epochs = range(course.epochs + 1)
    return next(e for e in epochs if course.steps_before(e + 1) >= first)


def _original(
    node: RecoveryConfig, schedule: Schedule, course: Course, prunable: int
) -> tuple[int, int]:
    """Epochs and steps of the trainer's curve; zeros if its length is unknown."""
    first = _first_epoch(schedule, course, prunable)
    epochs = node.original_epochs or (course.epochs if first is None else first)
    if schedule.by == "step" and node.original_epochs is None and first is not None:
        return epochs, next_due(schedule, -1, course.total_steps, prunable) or 0
    if epochs <= course.epochs:
        return epochs, course.steps_before(epochs + 1)
    return epochs, epochs * course.steps(1)


def _scheduler(trainer: TrainerConfig, optimizer: Optimizer, total: int) -> LRScheduler:
    given = {key: value for key, value in trainer.lr_scheduler.items() if key != "per"}
    node = {key: total if value == "total" else value for key, value in given.items()}
    scheduler: LRScheduler = build("trainer.lr_scheduler", node, optimizer)
    if "metrics" in parameters_of(scheduler.step)[0]:
        raise SettingError(
            "trainer.lr_scheduler",
            f"{node['_target_']} is steered by a metric; choose one that follows a fixed curve",
        )
    return scheduler


def _rates(trainer: TrainerConfig, total: int) -> list[float]:
    """The trainer's rate at each of ``total`` steps of its scheduler."""
    tiny = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    optimizer = build("trainer.optimizer", trainer.optimizer, tiny)
    scheduler = _scheduler(trainer, optimizer, total)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not stepped
        for _ in range(total):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            scheduler.step()
    return rates
