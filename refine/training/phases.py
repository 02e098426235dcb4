"""How much training is there until the next cut?"""

from typing import Protocol

from refine.datasets.course import Course


class Schedule(Protocol):
    """What refine/schedule.py offers."""

    by: str  # "epoch" or "step"
    grows: bool  # says itself when weights grow back

    def due(self, at: int, surviving: int) -> float | None:
        """The share of the ``surviving`` weights to cut after the epoch or step, if any."""


def next_due(schedule: Schedule, after: int, length: int, surviving: int) -> int | None:
    """The first epoch (or step, with ``schedule.by``) behind ``after`` that a cycle follows, of
    ``length``, as far as can be told from the ``surviving`` weights of now."""
    later = range(after + 1, length + 1)
    return next((at for at in later if schedule.due(at, surviving) is not None), None)


def steps_until_next(
    schedule: Schedule, course: Course, batch_size: int, epoch: int, step: int, surviving: int
) -> int:
    """Training steps from behind ``step`` of the epoch after ``epoch`` until the next cycle, or
    until the end of the course."""
    here = course.steps_before(epoch + 1, batch_size) + step
    total = course.total_steps(batch_size)
    if schedule.by == "step":
        return (next_due(schedule, here, total, surviving) or total) - here
    last = next_due(schedule, epoch, course.epochs, surviving) or course.epochs
    return course.steps_before(last + 1, batch_size) - here
