"""How do the cycles of a schedule reach a number that is set, each its part of the way?"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from refine.schedule.base import Schedule


@dataclass(frozen=True)
class ToTarget:
    """The cycles of another schedule, by equal factors to the ``goal`` of what survives, which the
    last one meets. length: epochs or steps of the run."""

    schedule: Schedule
    goal: int
    length: int
    grows: ClassVar[bool] = False

    @property
    def by(self) -> str:
        """What it counts."""
        return self.schedule.by

    def due(self, at: int, surviving: int) -> float | None:
        """The share that is this cycle's part of the way, if it is due."""
        if self.schedule.due(at, surviving) is None or surviving <= self.goal:
            return None
        later = range(at + 1, self.length + 1)
        cycles = 1 + sum(self.schedule.due(other, surviving) is not None for other in later)
        factor: float = (self.goal / surviving) ** (1 / cycles)
        left = max(self.goal, ceil(surviving * factor))
        return max(0.5, surviving - left - 0.5) / (surviving - 1)
