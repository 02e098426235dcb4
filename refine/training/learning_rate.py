"""What rate does the next training step have?"""

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from refine.datasets.course import Course
from refine.recovery import Recovery
from refine.schedule import Schedule


def next_due(schedule: Schedule, after: int, length: int, surviving: int) -> int | None:
    """The first epoch (or step, with ``schedule.by``) behind ``after`` that a cycle follows, of
    ``length``, as far as the weights that are ``surviving`` now can tell."""
    later = range(after + 1, length + 1)
    return next((at for at in later if schedule.due(at, surviving) is not None), None)


def steps_until_next(
    schedule: Schedule, course: Course, epoch: int, step: int, surviving: int
) -> int:
    """Training steps from behind ``step`` of the epoch after ``epoch`` until the next cycle, or
    until the end of the course."""
    here = course.steps_before(epoch + 1) + step
    total = course.total_steps
    if schedule.by == "step":
        return (next_due(schedule, here, total, surviving) or total) - here
    last = next_due(schedule, epoch, course.epochs, surviving) or course.epochs
    return course.steps_before(last + 1) - here


class LearningRate:
    """The curve of the recipe until the first cut, and from each cut on the recovery's, if there
    is one.

    per: "batch" or "epoch", how often ``scheduler`` is stepped; length: how many steps its curve
    has, behind which the rate stays, as where the cut that was to end it never came. Replay steps
    move nothing.
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
        """Where on which curve it is, as numbers."""
        return {"steps": self._steps, "recovery": self.recovery.state_dict()}

    def follow_(self, state: dict[str, Any]) -> None:
        """Steps the scheduler to where ``state`` was, on the curve of this run."""
        for _ in range(state["steps"]):
            self._step()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings the recovery to where it was; after ``follow_``, and after the optimizer was
        loaded."""
        self.recovery.load_state_dict(state["recovery"])

    def _step(self) -> None:
        if self._steps < self.length:
            self.scheduler.step()
            self._steps += 1
