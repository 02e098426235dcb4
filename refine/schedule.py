"""When is a cycle due, and how much does it cut?

``due(epoch)`` gives the share of the survivors to cut after that epoch, counted from 1, or None.
All schedules are made from the same settings, of which each uses its own. No cycle follows the
last epoch unless ``stop`` asks for it.
"""

from dataclasses import dataclass

__all__ = ["Cubic", "Never", "OneShot", "Periodic"]


@dataclass(frozen=True)
class Settings:
    """What a schedule can be made from.

    ratio: share of the survivors that one cycle cuts. epochs: of the run. interval: epochs from
    cycle to cycle. start, stop: first and last epoch that a cycle may follow. cycles_at_once: as
    how many cycles of ``ratio`` a single one counts. target_sparsity: share of all parameters to
    be cut in the end. prunable_share: of the parameters, those that can be cut.
    """

    ratio: float
    epochs: int
    interval: int = 5
    start: int | None = None
    stop: int | None = None
    cycles_at_once: int = 1
    target_sparsity: float | None = None
    prunable_share: float = 1.0

    @property
    def last(self) -> int:
        """The last epoch that a cycle may follow."""
        return self.stop or self.epochs - 1


@dataclass(frozen=True)
class Never(Settings):
    """No cycle."""

    def due(self, epoch: int) -> float | None:
        """None, always."""
        return None


@dataclass(frozen=True)
class Periodic(Settings):
    """A cycle after epochs start, start + interval, … up to stop, each cutting ratio."""

    def due(self, epoch: int) -> float | None:
        """The ratio to cut after ``epoch``, if any."""
        start = self.start or self.interval
        fires = start <= epoch <= self.last and (epoch - start) % self.interval == 0
        return self.ratio if fires else None


@dataclass(frozen=True)
class OneShot(Settings):
    """One cycle, after epoch start; by default half-way through the run."""

    def due(self, epoch: int) -> float | None:
        """What ``cycles_at_once`` cycles of ratio would have cut, if the cycle is due."""
        start = self.start or max(1, self.epochs // 2)
        if not epoch == start <= self.last:
            return None
        if self.cycles_at_once == 1:  # 1 - (1 - 0.15) is not quite 0.15
            return self.ratio
        return 1 - (1 - self.ratio) ** self.cycles_at_once


@dataclass(frozen=True)
class Cubic(Settings):
    """Cycles after epochs start, start + interval, … up to stop that reach target_sparsity: large
    cuts first, while there is most to cut (Zhu & Gupta 2017, arXiv:1710.01878)."""

    def __post_init__(self) -> None:
        if self.target_sparsity is None:
            raise ValueError("schedule.target_sparsity is not set, such as 0.9")
        if self.target_sparsity >= self.prunable_share:
            raise ValueError(
                f"target_sparsity={self.target_sparsity} leaves nothing of the network: "
                f"{self.prunable_share:.2%} of its parameters can be cut"
            )

    def due(self, epoch: int) -> float | None:
        """The share of the survivors that takes the sparsity to its next value, if any."""
        start = self.start or self.interval
        number, rest = divmod(epoch - start, self.interval)
        if rest or not start <= epoch <= self.last:
            return None
        cycles = (self.last - start) // self.interval + 1
        before, after = (self._sparsity(done / cycles) for done in (number, number + 1))
        return (after - before) / (1 - before)

    def _sparsity(self, progress: float) -> float:
        """Share of the prunable weights that is cut when ``progress`` of the cycles are done."""
        return self.target_sparsity / self.prunable_share * (1 - (1 - progress) ** 3)
