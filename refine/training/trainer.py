"""How is a network trained and refined?

``train`` is the one epoch loop; it yields a row for each epoch and for each cycle.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.cycle import CycleReport
from refine.datasets.course import Course
from refine.datasets.prepare import Data
from refine.errors import TrainingError
from refine.evaluation.forgetting import average_accuracy, forgetting
from refine.records.rows import CycleRow, EpochRow
from refine.recovery import WeightRewind
from refine.refinement import RuntimeRefinement
from refine.rng import random_state, set_random_state
from refine.training.learning_rate import LearningRate, Schedule, steps_until_next
from refine.training.measure import Measuring
from refine.training.position import Position
from refine.training.step import Stepper

ADVICE = "a lower trainer.optimizer.lr or trainer.precision=fp32 may help"
CHECK_EVERY = 50  # steps between looks at the losses: a look waits for the GPU


def train(
    model: nn.Module,
    course: Course,
    *,
    stepper: Stepper,
    learning_rate: LearningRate,
    refinement: RuntimeRefinement,
    schedule: Schedule,
    batch_size: int,
    generator: torch.Generator,
    scoring: Callable[[Data, int], Iterable[Batch]],
    rewind: WeightRewind | None = None,
    recovery_epochs: int | None = None,
    tolerance: float | None = None,
    position: Position | None = None,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Iterator[EpochRow | CycleRow]:
    """Trains ``model`` and yields what was measured: an EpochRow after each epoch of the course
    and, where ``schedule`` has a cycle due, a CycleRow after it.

    generator: order and augmentation of the training images.
    scoring: the batches of a task on which the cycle of that number scores weights.
    rewind: takes the weights back after each cut. recovery_epochs: how long a recovery takes; by
        default until the next cycle.
    tolerance: how far below its best so far a cut may bring the validation accuracy.
    position: where to begin, with ``model`` and the others as they were there; moved on.
    on_step: told the step of the epoch and their number, for a progress bar; may raise Stop.

    TrainingError, with epoch and step, when a loss is no longer finite.
    """
    at = position or Position()
    measuring = Measuring(stepper.precision.autocast)

    def so_far() -> list[Data]:
        return course.tasks[: at.task + 1]

    def validated(network: nn.Module = model) -> float:
        return measuring.validation(network, so_far()).accuracy

    def steps_ahead() -> int:
        if recovery_epochs is not None:
            return recovery_epochs * course.steps(min(at.epoch + 1, course.epochs), batch_size)
        surviving = refinement.surviving
        return steps_until_next(schedule, course, batch_size, at.epoch, at.step, surviving)

    def recover() -> None:
        if rewind:
            rewind.rewind_()
        learning_rate.recovery.restart(max(1, steps_ahead()))

    def cycle(ratio: float) -> Iterator[CycleRow]:
        by_epoch, task = at.step == 0, so_far()[-1]
        if by_epoch and at.test_accuracy is None:  # before the first epoch
            at.test_accuracy = measuring.test(model, so_far()).accuracy
        if tolerance is not None and at.best_validation is None:
            at.best_validation = validated()
        at.in_cycle = True
        try:
            report = refinement.refinement_cycle(
                task.plain(task.train),
                ratio,
                evaluate=(lambda _: measuring.test(model, so_far()).accuracy) if by_epoch else None,
                scoring=scoring(task, refinement.cycles + 1),
                validate=task.validation and validated,
                regrow=not schedule.grows,
                floor=None if tolerance is None else at.best_validation - tolerance,
                recover=recover if learning_rate.recovery.curve or rewind else None,
            )
        except Exception as error:  # also what a user's own importance raises
            where = f"epoch {at.epoch}" + ("" if by_epoch else f", step {at.step}")
            raise TrainingError(f"the cycle after {where} failed: {error}") from error
        at.in_cycle, at.cycled = False, by_epoch
        steps = course.steps_before(at.epoch + 1, batch_size) + at.step
        yield _cycle_row(report, at, steps)

    def after_epoch() -> Iterator[CycleRow]:
        if rewind:
            rewind.note(at.epoch)
        if cycle_follows(at, schedule, refinement):
            yield from cycle(schedule.due(at.epoch, refinement.surviving))
        at.cycled = True

    def end_task() -> None:
        task = so_far()[-1]
        try:
            refinement.end_task(task.plain(task.train))
        except Exception as error:
            raise TrainingError(f"the end of task {at.task + 1} failed: {error}") from error

    if recovery_epochs is None and not cycle_follows(at, schedule, refinement):
        learning_rate.recovery.plan(steps_ahead())  # of a run that goes on, perhaps for longer
    yield from after_epoch()
    for epoch in range(at.epoch + 1, course.epochs + 1):
        start = time.perf_counter() - at.seconds
        if course.task(epoch) != at.task:
            end_task()
            at.task = course.task(epoch)
            at.best_validation = None  # it was of fewer tasks
        loader = so_far()[-1].training(batch_size, generator)
        steps_before = course.steps_before(epoch, batch_size)
        if at.order is None:
            at.order, at.random = generator.get_state(), random_state()
            refinement.begin_epoch()
            if stepper.regularizer:
                stepper.regularizer.begin_epoch(epoch, len(loader))
        elif at.step:  # the batches of its first steps are drawn once more, to get to the next
            generator.set_state(at.order)
            now = random_state()
            set_random_state(at.random)
        model.train()
        for step, (images, labels) in enumerate(loader, 1):
            if step <= at.step:
                if step == at.step:
                    set_random_state(now)
                continue
            loss, correct = stepper(images, labels)
            at.losses.append(loss)
            at.right.append(correct)
            at.seen += len(labels)
            at.rate = stepper.optimizer.param_groups[0]["lr"]
            learning_rate.after_step()
            if step % CHECK_EVERY == 0 or step == len(loader):
                _check(at.losses, epoch)
            at.step = step
            if schedule.by == "step":
                ratio = schedule.due(steps_before + step, refinement.surviving)
                if ratio is not None:
                    yield from cycle(ratio)
                    model.train()
            at.seconds = time.perf_counter() - start
            on_step(step, len(loader))
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise TrainingError(f"the weights are no longer finite after epoch {epoch}; {ADVICE}")
        learning_rate.after_epoch()

        measured = measuring.all(model, so_far())
        validation, stream = measured.validation, {}
        if len(course.tasks) > 1:
            stream = {
                "task": at.task + 1,
                "average_accuracy": average_accuracy(measured.by_task),
                "forgetting": forgetting(measured.by_task, at.ended),
                "task_accuracies": json.dumps(measured.by_task),
            }
        row = EpochRow(
            epoch=epoch,
            train_loss=float(torch.stack(at.losses).mean()),
            train_accuracy=int(torch.stack(at.right).sum()) / at.seen,
            test_loss=measured.test.loss,
            test_accuracy=measured.test.accuracy,
            sparsity=refinement.sparsity,
            prunable_sparsity=refinement.prunable_sparsity,
            active_parameters=refinement.active_parameters,
            total_parameters=refinement.total_parameters,
            learning_rate=at.rate,
            cycles=refinement.cycles,
            epoch_seconds=time.perf_counter() - start,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
            **stream,
        )
        best = max(at.best_validation or 0.0, validation.accuracy) if validation else None
        ended = [*at.ended, measured.by_task] if course.ends(epoch) else at.ended
        next_at = Position(epoch, measured.test.accuracy, best, task=at.task, ended=ended)
        vars(at).update(vars(next_at))
        yield row
        yield from after_epoch()


def cycle_follows(at: Position, schedule: Schedule, refinement: RuntimeRefinement) -> bool:
    """Whether a cycle is left to do after the epoch that was measured last."""
    if at.cycled or (schedule.by == "step" and at.epoch > 0):
        return False
    return schedule.due(at.epoch, refinement.surviving) is not None


def _cycle_row(report: CycleReport, at: Position, step: int) -> CycleRow:
    measured = report.accuracy_after_cut is not None
    return CycleRow(
        cycle=report.cycle,
        epoch=at.epoch,
        ratio=report.ratio,
        cut_weights=sum(report.cut.values()),
        cut_by_tensor=json.dumps(report.cut),
        sparsity=report.sparsity,
        prunable_sparsity=report.prunable_sparsity,
        active_parameters=report.active_parameters,
        total_parameters=report.total_parameters,
        test_accuracy_before=at.test_accuracy if measured else None,
        test_accuracy_after_cut=report.accuracy_after_cut,
        test_accuracy_after_replay=report.accuracy_after_replay,
        replay_steps=report.replay_steps,
        replay_loss=report.replay_loss,
        importance_seconds=report.seconds["importance"],
        downscale_seconds=report.seconds["downscale"],
        cut_seconds=report.seconds["allocation"] + report.seconds["cut"],
        replay_seconds=report.seconds["replay"],
        step=step,
        grown_weights=sum(report.grown.values()),
        grown_by_tensor=json.dumps(report.grown),
        regrowth_seconds=report.seconds["regrowth"],
        memory_examples=report.memory_examples,
        memory_bytes=report.memory_bytes,
        cache_bytes=report.cache_bytes,
        channels=report.channels,
        macs=report.macs,
    )


def _check(losses: list[Tensor], epoch: int) -> None:
    finite = torch.stack(losses[-CHECK_EVERY:]).isfinite().tolist()
    if not all(finite):
        step = max(0, len(losses) - CHECK_EVERY) + finite.index(False) + 1
        raise TrainingError(
            f"the loss is no longer a number in epoch {epoch}, step {step}; {ADVICE}"
        )
