"""How do a schedule's cycles together reach a given number of survivors?"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from refine.schedule.base import Schedule


@dataclass(frozen=True)
class ToTarget:
    """The cycles of another schedule. Each cuts by the same factor, and the last one leaves
    ``goal`` survivors. length: epochs or steps of the run."""

    schedule: Schedule
    goal: int
    length: int
    grows: ClassVar[bool] = False

    @property
    def by(self) -> str:
        """What ``at`` counts: "epoch" or "step"."""
        return self.schedule.by

    def due(self, at: int, surviving: int) -> float | None:
        """The share that this cycle cuts, if it is due."""
        if self.schedule.due(at, surviving) is None or surviving <= self.goal:
            return None
        later = range(at + 1, self.length + 1)
        cycles = 1 + sum(self.schedule.due(other, surviving) is not None for other in later)
        factor: float = (self.goal / surviving) ** (1 / cycles)
        left = max(self.goal, ceil(surviving * factor))
        return max(0.5, surviving - left - 0.5) / (surviving - 1)
