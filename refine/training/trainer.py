"""How is a network trained and refined?

``Trainer.rows`` is the one loop; it yields a row for each epoch and for each cycle.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.datasets.course import Course
from refine.datasets.prepare import Data
from refine.errors import TrainingError
from refine.records.rows import CycleRow, EpochRow
from refine.recovery import WeightRewind
from refine.refinement import RuntimeRefinement
from refine.rng import random_state, set_random_state
from refine.training.learning_rate import LearningRate, Schedule, steps_until_next
from refine.training.measure import Measuring, cycle_row, epoch_row
from refine.training.position import Position
from refine.training.step import Stepper

ADVICE = "a lower trainer.optimizer.lr or trainer.precision=fp32 may help"
CHECK_EVERY = 50  # steps between checks of the losses: a check waits for the GPU


@dataclass
class Trainer:
    """Trains ``model`` on a course and refines it where ``schedule`` has a cycle due.

    generator: order and augmentation of the training images.
    scoring: the batches of a task on which the cycle of that number, from 1, scores weights.
    rewind: takes the weights back after each cut. recovery_epochs: how long a recovery takes; by
        default until the next cycle.
    tolerance: how far below its best so far a cut may bring the validation accuracy.
    at: the position to start from, at which ``model`` and the other parts must be; it is updated.
    on_step: called with the step of the epoch and the number of steps; may raise Stop. on_phase:
        called as ``(cycle, step, done, of)`` in a cycle, and as 0, "measure" where an epoch is.
    """

    model: nn.Module
    course: Course
    stepper: Stepper
    learning_rate: LearningRate
    refinement: RuntimeRefinement
    schedule: Schedule
    generator: torch.Generator
    scoring: Callable[[Data, int], Iterable[Batch]]
    rewind: WeightRewind | None = None
    recovery_epochs: int | None = None
    tolerance: float | None = None
    at: Position = field(default_factory=Position)
    on_step: Callable[[int, int], None] = lambda step, steps: None
    on_phase: Callable[[int, str, int, int], None] = lambda cycle, step, done, of: None
    # Of the epoch: when it began, as if never stopped, and its steps.
    _started: float = field(init=False, repr=False, default=0.0)
    _steps: int = field(init=False, repr=False, default=0)

    def rows(self) -> Iterator[EpochRow | CycleRow]:
        """Trains, and yields what was measured: an EpochRow after each epoch and a CycleRow after
        each cycle. TrainingError, with epoch and step, when a loss is no longer finite."""
        self._plan_recovery()
        yield from self._cycle_after_epoch()  # if a stop came before it, or before epoch 1
        for epoch in range(self.at.epoch + 1, self.course.epochs + 1):
            self._begin(epoch)
            for images, labels in self._batches(epoch):
                self._train_on(images, labels, epoch)
                if self.schedule.by == "step":
                    yield from self._cycle_after_step(epoch)
                self._tell_step()
            self.learning_rate.after_epoch()
            yield self._measured(epoch)
            yield from self._cycle_after_epoch()

    def cycle_due(self) -> float | None:
        """The ratio of the cycle that is still to be done after the last measured epoch, if any."""
        if self.at.cycled or (self.schedule.by == "step" and self.at.epoch > 0):
            return None
        return self.schedule.due(self.at.epoch, self.refinement.method.surviving)

    def cycles_ahead(self) -> int:
        """How many cycles are still to come, as far as the schedule can tell now."""
        surviving, due = self.refinement.method.surviving, self.schedule.due
        if self.schedule.by == "step":
            first, last = self.course.steps_before(self.at.epoch + 1) + 1, self.course.total_steps
        else:
            first, last = self.at.epoch + self.at.cycled, self.course.epochs
        return sum(due(at, surviving) is not None for at in range(first, last + 1))

    @property
    def _tasks(self) -> list[Data]:  # so far, the present one last
        return self.course.tasks[: self.at.task + 1]

    @property
    def _measure(self) -> Measuring:
        return Measuring(self.stepper.precision.autocast)

    def _begin(self, epoch: int) -> None:
        """Starts or continues the clock of the epoch, and changes the task when one has ended."""
        self._started = time.perf_counter() - self.at.seconds
        if self.course.task(epoch) == self.at.task:
            return
        task = self._tasks[-1]
        try:
            self.refinement.end_task(task.plain(task.train))
        except Exception as error:  # also what a user's own replay raises
            raise TrainingError(f"the end of task {self.at.task + 1} failed: {error}") from error
        self.at.task = self.course.task(epoch)
        self.at.best_validation = None  # it was for fewer tasks

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches. In a resumed epoch, those of the steps that were done are drawn
        again and skipped."""
        at, generator, now = self.at, self.generator, random_state()
        loader = self._tasks[-1].training(self.course.batch_size, generator)
        self._steps = len(loader)
        if at.order is None:
            at.order, at.random = generator.get_state(), now
            self.refinement.begin_epoch()
            if self.stepper.regularizer:
                self.stepper.regularizer.begin_epoch(epoch, self._steps)
        elif at.step:
            generator.set_state(at.order)
            set_random_state(at.random or now)
        self.model.train()
        before = at.step
        for step, batch in enumerate(loader, 1):
            if step <= before:
                if step == before:
                    set_random_state(now)
                continue
            yield batch

    def _train_on(self, images: Tensor, labels: Tensor, epoch: int) -> None:
        """One training step; now and then the losses are checked."""
        at = self.at
        loss, correct = self.stepper(images, labels)
        at.add(loss, correct, len(labels), self.stepper.optimizer.param_groups[0]["lr"])
        self.learning_rate.after_step()
        if at.step % CHECK_EVERY == 0 or at.step == self._steps:
            _check(at.losses, epoch)

    def _tell_step(self) -> None:
        self.at.seconds = time.perf_counter() - self._started
        self.on_step(self.at.step, self._steps)

    def _measured(self, epoch: int) -> EpochRow:
        """Measures the epoch and returns its row; the position moves to the end of the epoch."""
        at = self.at
        self.on_phase(0, "measure", 0, 0)
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise TrainingError(f"the weights are no longer finite after epoch {epoch}; {ADVICE}")
        measured = self._measure.all(self.model, self._tasks)
        seconds = time.perf_counter() - self._started
        tasks = len(self.course.tasks)
        row = epoch_row(epoch, at, measured, self.refinement, tasks, seconds)
        valid = measured.validation
        best = max(at.best_validation or 0.0, valid.accuracy) if valid else None
        ended = [*at.ended, measured.by_task] if self.course.ends(epoch) else at.ended
        at.move_to(Position(epoch, measured.test.accuracy, best, task=at.task, ended=ended))
        return row

    def _cycle_after_epoch(self) -> Iterator[CycleRow]:
        if self.rewind:
            self.rewind.note(self.at.epoch)
        ratio = self.cycle_due()
        if ratio is not None:
            yield self._cycle(ratio)
        self.at.cycled = True

    def _cycle_after_step(self, epoch: int) -> Iterator[CycleRow]:
        steps = self.course.steps_before(epoch) + self.at.step
        ratio = self.schedule.due(steps, self.refinement.method.surviving)
        if ratio is not None:
            yield self._cycle(ratio)
            self.model.train()

    def _cycle(self, ratio: float) -> CycleRow:
        """A cycle that cuts ``ratio``. Accuracies are measured only if it follows an epoch."""
        at, task = self.at, self._tasks[-1]
        by_epoch, adaptive = at.step == 0, self.tolerance is not None
        if by_epoch and at.test_accuracy is None:  # before the first epoch
            at.test_accuracy = self._tested(self.model)
        if adaptive and at.best_validation is None:
            at.best_validation = self._validated(self.model)
        recovers = self.learning_rate.recovery.curve is not None or self.rewind is not None
        at.in_cycle = True
        self.refinement.parts.tell = partial(self.on_phase, self.refinement.cycles + 1)
        try:
            report = self.refinement.refinement_cycle(
                task.plain(task.train),
                ratio,
                evaluate=self._tested if by_epoch else None,
                scoring=self.scoring(task, self.refinement.cycles + 1),
                validate=self._validated if task.validation else None,
                regrow=not self.schedule.grows,
                floor=self._floor(),
                recover=self._recover if recovers else None,
            )
        except Exception as error:  # also what a user's own importance raises
            where = f"epoch {at.epoch}" + ("" if by_epoch else f", step {at.step}")
            reason = " ".join(str(error).split())
            raise TrainingError(f"the cycle after {where} failed: {reason:.400}") from error
        at.in_cycle, at.cycled = False, by_epoch
        return cycle_row(report, at, self.course.steps_before(at.epoch + 1) + at.step)

    def _tested(self, network: nn.Module) -> float:
        return self._measure.test(network, self._tasks).accuracy

    def _validated(self, network: nn.Module) -> float:
        score = self._measure.validation(network, self._tasks)
        if score is None:
            raise ValueError("there are no validation images; set dataset.validation_size")
        return score.accuracy

    def _floor(self) -> float | None:
        if self.tolerance is None or self.at.best_validation is None:
            return None
        return self.at.best_validation - self.tolerance

    def _recover(self) -> None:
        if self.rewind:
            self.rewind.rewind_()
        self.learning_rate.recovery.restart(max(1, self._steps_ahead()))

    def _plan_recovery(self) -> None:
        """Corrects the recovery of a resumed run, which may have more or fewer steps to go."""
        if self.recovery_epochs is None and self.cycle_due() is None:
            self.learning_rate.recovery.plan(self._steps_ahead())

    def _steps_ahead(self) -> int:
        """The length of a recovery that starts here, in steps."""
        at, course = self.at, self.course
        if self.recovery_epochs is not None:
            return self.recovery_epochs * course.steps(min(at.epoch + 1, course.epochs))
        surviving = self.refinement.method.surviving
        return steps_until_next(self.schedule, course, at.epoch, at.step, surviving)


def _check(losses: list[Tensor], epoch: int) -> None:
    finite = torch.stack(losses[-CHECK_EVERY:]).isfinite().tolist()
    if not all(finite):
        step = max(0, len(losses) - CHECK_EVERY) + finite.index(False) + 1
        raise TrainingError(
            f"the loss is no longer a number in epoch {epoch}, step {step}; {ADVICE}"
        )
