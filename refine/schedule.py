"""When is a cycle due, and how much does it cut?

``due(epoch)`` gives the share of the survivors to cut after that epoch, counted from 1, or None.
All schedules are made from the same settings: ``ratio`` and ``epochs`` of the run, ``interval``,
``start`` and ``stop``. No cycle follows the last epoch unless ``stop`` asks for it.
"""

from dataclasses import dataclass

__all__ = ["Never", "OneShot", "Periodic"]


@dataclass(frozen=True)
class Periodic:
    """A cycle after epochs start, start + interval, … up to stop."""

    ratio: float
    epochs: int
    interval: int = 5
    start: int | None = None
    stop: int | None = None

    def due(self, epoch: int) -> float | None:
        """The ratio to cut after ``epoch``, if any."""
        start = self.start or self.interval
        stop = self.stop or self.epochs - 1
        fires = start <= epoch <= stop and (epoch - start) % self.interval == 0
        return self.ratio if fires else None


@dataclass(frozen=True)
class OneShot:
    """One cycle, after epoch start; by default half-way through the run."""

    ratio: float
    epochs: int
    interval: int = 5
    start: int | None = None
    stop: int | None = None

    def due(self, epoch: int) -> float | None:
        """The ratio to cut after ``epoch``, if any."""
        start = self.start or max(1, self.epochs // 2)
        stop = self.stop or self.epochs - 1
        return self.ratio if epoch == start <= stop else None


@dataclass(frozen=True)
class Never:
    """No cycle."""

    ratio: float
    epochs: int
    interval: int = 5
    start: int | None = None
    stop: int | None = None

    def due(self, epoch: int) -> float | None:
        """None, always."""
        return None
