"""What rate does the next training step have?"""

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from refine.datasets.course import Course
from refine.recovery import Recovery
from refine.schedule import Schedule


def next_due(schedule: Schedule, after: int, length: int, surviving: int) -> int | None:
    """The first epoch (or step, with ``schedule.by``) later than ``after`` that a cycle follows, up
    to ``length``; judged by the number of weights that are ``surviving`` now."""
    later = range(after + 1, length + 1)
    return next((at for at in later if schedule.due(at, surviving) is not None), None)


def steps_until_next(
    schedule: Schedule, course: Course, epoch: int, step: int, surviving: int
) -> int:
    """The number of training steps until the next cycle or the end of the course, after ``step``
    steps of the epoch that follows ``epoch``."""
    here = course.steps_before(epoch + 1) + step
    total = course.total_steps
    if schedule.by == "step":
        return (next_due(schedule, here, total, surviving) or total) - here
    last = next_due(schedule, epoch, course.epochs, surviving) or course.epochs
    return course.steps_before(last + 1) - here


class LearningRate:
    """The trainer's curve until the first cut; after each cut the recovery's, if there is one.

    per: "batch" or "epoch", how often ``scheduler`` is stepped; length: the number of steps
    of its curve, after which the rate stays, such as if the cut that should end it never came.
    Replay steps change nothing.
    """

    def __init__(self, scheduler: LRScheduler, per: str, length: int, recovery: Recovery):
        self.scheduler, self.per, self.length = scheduler, per, length
        self.recovery = recovery
        self._steps = 0  # of the scheduler

    def after_step(self) -> None:
        """To be called after every training step of an epoch."""
        if self.recovery.active:
            self.recovery.step()
        elif self.per == "batch":
            self._step()

    def after_epoch(self) -> None:
        """To be called after every epoch."""
        if self.per == "epoch" and not self.recovery.active:
            self._step()

    def state_dict(self) -> dict[str, Any]:
        """The position on the curves, as numbers."""
        return {"steps": self._steps, "recovery": self.recovery.state_dict()}

    def follow_(self, state: dict[str, Any]) -> None:
        """Steps the scheduler to the position of ``state``, on the curve of this run."""
        for _ in range(min(state["steps"], self.length)):
            self._step()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the recovery; to be called after ``follow_``, and after the optimizer was
        loaded."""
        self.recovery.load_state_dict(state["recovery"])

    def _step(self) -> None:
        if self._steps < self.length:
            self.scheduler.step()
            self._steps += 1
