"""When is a cycle due, and how much does it cut?

``due(at, surviving)`` gives the share of the ``surviving`` prunable weights to cut after epoch (or
step, with ``by``) ``at``, counted from 1, or None. A negative share is one to grow back: survivors
times 1 - share is what lives afterwards. After 0, before the first step, only what ``start`` or
``at`` asks for is due, and after the last epoch only what ``stop`` or ``at`` does. All schedules
are made from the same settings, of which each uses its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, pi

__all__ = [
    "Adaptive",
    "Cosine",
    "Cubic",
    "Cyclic",
    "Geometric",
    "Listed",
    "Never",
    "OneShot",
    "Periodic",
    "Toward",
]


@dataclass(frozen=True)
class Settings:
    """What a schedule can be made from.

    ratio: share that one cycle cuts. of: of the "survivors", or of "all" prunable weights. length:
    epochs of the run, or steps if ``by`` is "step". interval: from cycle to cycle. start, stop:
    first and last that a cycle may follow. cycles_at_once: as how many cycles of ``ratio`` a single
    one counts. initial_sparsity, target_sparsity, sparsities: shares of all parameters. period:
    cycles from one growing back to the next. tolerance: loss of validation accuracy that a cut may
    bring. prunable, total: weights that can be cut, and all parameters.
    """

    ratio: float
    length: int
    interval: int = 5
    start: int | None = None
    stop: int | None = None
    by: str = "epoch"
    of: str = "survivors"
    cycles_at_once: int = 1
    initial_sparsity: float = 0.0
    target_sparsity: float | None = None
    at: Sequence[int] = ()
    sparsities: Sequence[float] = ()
    period: int = 5
    tolerance: float = 0.01
    prunable: int = 1
    total: int = 1
    grows = False  # whether cycles of its own let weights grow back, and then only these

    @property
    def first(self) -> int:
        """The first epoch or step that a cycle may follow."""
        return self.interval if self.start is None else self.start

    @property
    def last(self) -> int:
        """The last one."""
        return self.length - 1 if self.stop is None else self.stop

    @property
    def cycles(self) -> int:
        """How many cycles there are, an interval apart."""
        return max(0, (self.last - self.first) // self.interval + 1)

    def number(self, at: int) -> int | None:
        """Which of these cycles, counted from 0, comes after ``at``, if any does."""
        number, rest = divmod(at - self.first, self.interval)
        return number if rest == 0 and 0 <= number < self.cycles else None

    def share(self, surviving: int) -> float | None:
        """``ratio``, as a share of the survivors."""
        if self.of == "survivors":
            return self.ratio
        return self.to(
            1 - (surviving - round(self.ratio * self.prunable)) / self.prunable, surviving
        )

    def to(self, prunable_sparsity: float, surviving: int) -> float | None:
        """The share that takes ``surviving`` weights to a sparsity of the prunable ones, exactly:
        half a weight less than their number, as a cut of ratio r takes floor(r (n - 1)) + 1."""
        gone = surviving - max(1, floor(self.prunable * (1 - prunable_sparsity) + 0.5))
        if gone == 0:
            return None
        return (gone - 0.5) / (surviving - 1) if gone > 0 else gone / surviving

    def prunable_sparsity(self, sparsity: float) -> float:
        """Of the prunable weights, where ``sparsity`` is of all parameters."""
        share = self.prunable / self.total
        if sparsity >= share:
            raise ValueError(
                f"target_sparsity={sparsity} leaves nothing of the network: {share:.2%} of its "
                "parameters can be cut"
            )
        return sparsity / share

    def of_survivors(self) -> None:
        """ValueError if the ratio is of anything else."""
        if self.of != "survivors":
            raise ValueError(f"schedule.of={self.of}: this schedule's ratio is of the survivors")

    def target(self) -> float:
        """``target_sparsity``, of the prunable weights."""
        if self.target_sparsity is None:
            raise ValueError("schedule.target_sparsity is not set, such as 0.9")
        return self.prunable_sparsity(self.target_sparsity)


@dataclass(frozen=True)
class Never(Settings):
    """No cycle."""

    def due(self, at: int, surviving: int) -> float | None:
        """None, always."""
        return None


@dataclass(frozen=True)
class Periodic(Settings):
    """A cycle after start, start + interval, … up to stop, each cutting ratio."""

    def __post_init__(self) -> None:
        if self.of == "all" and self.ratio * self.cycles >= 1:
            raise ValueError(
                f"schedule.of=all: {self.cycles} cycles that each cut {self.ratio:g} of all "
                "weights leave nothing; lower pruner.ratio or set schedule.stop"
            )

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio, if a cycle is due."""
        return None if self.number(at) is None else self.share(surviving)


@dataclass(frozen=True)
class OneShot(Settings):
    """One cycle, after start, by default half-way through the run: to target_sparsity, or without
    one as much as ``cycles_at_once`` cycles of ratio would have cut."""

    def __post_init__(self) -> None:
        if self.target_sparsity is not None:
            self.target()
        elif self.cycles_at_once > 1:
            self.of_survivors()

    def due(self, at: int, surviving: int) -> float | None:
        """What it cuts, if the cycle is due."""
        start = max(1, self.length // 2) if self.start is None else self.start
        if not at == start <= self.last:
            return None
        if self.target_sparsity is not None:
            return self.to(self.target(), surviving)
        if self.cycles_at_once == 1:  # 1 - (1 - 0.15) is not quite 0.15
            return self.share(surviving)
        return 1 - (1 - self.ratio) ** self.cycles_at_once


@dataclass(frozen=True)
class Geometric(Settings):
    """Cycles that each cut ratio of the survivors until target_sparsity, which the last one meets
    (iterative magnitude pruning: Han et al. 2015, arXiv:1506.02626)."""

    def __post_init__(self) -> None:
        self.target()
        self.of_survivors()

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio, or what is left to the target."""
        rest = self.to(self.target(), surviving)
        if self.number(at) is None or rest is None or rest <= 0:
            return None
        return min(self.ratio, rest)


@dataclass(frozen=True)
class Cubic(Settings):
    """Cycles after start, start + interval, … up to stop, from initial_sparsity to target_sparsity:
    large cuts first, while there is most to cut (Zhu & Gupta 2017, arXiv:1710.01878)."""

    def __post_init__(self) -> None:
        self.target()

    def due(self, at: int, surviving: int) -> float | None:
        """The share that takes the sparsity to its next value, if any."""
        number = self.number(at)
        if number is None:
            return None
        begin = self.prunable_sparsity(self.initial_sparsity)
        return self.to(cubic(begin, self.target(), (number + 1) / self.cycles), surviving)


@dataclass(frozen=True)
class Listed(Settings):
    """Cycles after the epochs or steps ``at``, each to its one of ``sparsities``."""

    grows = True

    def __post_init__(self) -> None:
        if not self.at or len(self.at) != len(self.sparsities):
            raise ValueError(
                "schedule.at and schedule.sparsities must be lists of the same length, such as "
                "at=[4,8] sparsities=[0.5,0.9]"
            )
        if (
            list(self.at) != sorted(set(self.at))
            or not 0 <= self.at[0] <= self.at[-1] <= self.length
        ):
            raise ValueError(f"schedule.at must rise from 0 to at most {self.length}")
        for sparsity in self.sparsities:
            self.prunable_sparsity(sparsity)

    def due(self, at: int, surviving: int) -> float | None:
        """The share that takes the sparsity to the one that is listed, if any."""
        if at not in self.at:
            return None
        return self.to(self.prunable_sparsity(self.sparsities[self.at.index(at)]), surviving)


@dataclass(frozen=True)
class Cyclic(Settings):
    """Every ``period`` cycles go from initial_sparsity to target_sparsity; then all that was cut
    since grows back at once, but for the last time (Srinivas et al. 2022, arXiv:2202.01290)."""

    grows = True

    def __post_init__(self) -> None:
        self.target()
        if not 2 <= self.period <= self.cycles:
            raise ValueError(
                f"schedule.period must be from 2 to the {self.cycles} cycles of the run, not "
                f"{self.period}"
            )

    def due(self, at: int, surviving: int) -> float | None:
        """The share that takes the sparsity up, or at the start of a period down."""
        number = self.number(at)
        if number is None:
            return None
        # The last period ends with the last cycle; a first one that is shorter begins later.
        place = (number - self.cycles) % self.period
        begin = self.prunable_sparsity(self.initial_sparsity)
        return self.to(cubic(begin, self.target(), place / (self.period - 1)), surviving)


@dataclass(frozen=True)
class Cosine(Settings):
    """Cycles of a ratio that falls from ``ratio`` to 0 along half a cosine until stop: the share
    that dynamic sparse training exchanges (Evci et al. 2020, arXiv:1911.11134)."""

    def __post_init__(self) -> None:
        self.of_survivors()

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio that it has fallen to."""
        if self.number(at) is None:
            return None
        ratio = self.ratio / 2 * (1 + cos(pi * at / (self.last + 1)))
        return ratio if ratio > 0 else None


@dataclass(frozen=True)
class Adaptive(Settings):
    """A cycle after start, start + interval, … up to stop, that cuts as much as keeps validation
    accuracy within ``tolerance`` of the best so far, at most ratio, found by bisection."""

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio that is tried first; see ``accept`` of ``refinement_cycle``."""
        return None if self.number(at) is None else self.share(surviving)


@dataclass(frozen=True)
class Toward:
    """The cycles of another schedule, by equal factors to the ``goal`` of what survives, which the
    last one meets."""

    schedule: Settings
    goal: int

    @property
    def by(self) -> str:
        """In what it counts."""
        return self.schedule.by

    @property
    def grows(self) -> bool:
        """Never."""
        return False

    def due(self, at: int, surviving: int) -> float | None:
        """The share that is this cycle's part of the way, if it is due."""
        if self.schedule.due(at, surviving) is None or surviving <= self.goal:
            return None
        later = range(at + 1, self.schedule.length + 1)
        cycles = 1 + sum(self.schedule.due(other, surviving) is not None for other in later)
        left = max(self.goal, ceil(surviving * (self.goal / surviving) ** (1 / cycles)))
        return max(0.5, surviving - left - 0.5) / (surviving - 1)


def cubic(begin: float, end: float, progress: float) -> float:
    """The sparsity between ``begin`` and ``end`` when ``progress`` of the cycles are done."""
    return end + (begin - end) * (1 - progress) ** 3
