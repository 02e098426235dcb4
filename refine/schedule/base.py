"""What do all schedules have: values from the run, common settings, ways to count?"""

from dataclasses import dataclass
from math import floor
from typing import ClassVar, Protocol

from refine.errors import FieldError
from refine.setting import setting

UNITS = {"epoch": "cycles are due after epochs", "step": "cycles are due after training steps"}
SHARES = {"survivors": "of the surviving weights", "all": "of all prunable weights"}


class Schedule(Protocol):
    """What the training loop asks of a schedule."""

    @property
    def by(self) -> str:
        """What ``at`` counts: "epoch" or "step"."""

    @property
    def grows(self) -> bool:
        """Whether weights grow back only in cycles with a negative share."""

    def due(self, at: int, surviving: int) -> float | None:
        """The share of the ``surviving`` weights to cut after the epoch or step, if any."""


@dataclass(frozen=True)
class Given:
    """What the run supplies, and what a schedule says of itself.

    ratio: share that one cycle cuts. length: epochs of the run, or steps if ``by`` is "step".
    prunable, total: weights that can be cut, and all parameters.
    """

    ratio: float
    length: int
    prunable: int = 1
    total: int = 1

    grows: ClassVar[bool] = False  # weights grow back only in cycles with a negative share
    needs_regrowth: ClassVar[bool] = False  # works only with a regrowth
    needs_validation: ClassVar[bool] = False  # needs validation images
    to_sparsity: ClassVar[bool] = False  # its settings are shares of all parameters
    splits_target: ClassVar[bool] = False  # its cycles can reach a pruner's target in parts
    cuts_ratio: ClassVar[bool] = True  # how much a cycle cuts depends on ``ratio``
    expects_cycles: ClassVar[bool] = True  # a run without one is worth a warning

    def to(self, prunable_sparsity: float, surviving: int) -> float | None:
        """The share that brings ``surviving`` weights to exactly this sparsity of the prunable
        ones. A cut of ratio r takes floor(r (n - 1)) + 1, so it is the share of half a weight less.
        """
        gone = surviving - max(1, floor(self.prunable * (1 - prunable_sparsity) + 0.5))
        if gone == 0:
            return None
        return (gone - 0.5) / (surviving - 1) if gone > 0 else gone / surviving

    def prunable_sparsity(self, field: str, sparsity: float) -> float:
        """The sparsity of the prunable weights at ``sparsity``, the value of ``field``, of all."""
        share = self.prunable / self.total
        if sparsity >= share:
            problem = f"{sparsity} leaves nothing of the network: {share:.2%} of its parameters "
            raise FieldError(field, f"{problem}can be cut")
        return sparsity / share

    def check_end(self, surviving: int, cycles: int) -> None:
        """FieldError if what survives after all ``cycles`` is not what the schedule promises."""


@dataclass(frozen=True, kw_only=True)
class Counted(Given):
    """Counts epochs or steps."""

    by: str = setting("unit of interval, start, stop and at", choices=UNITS, default="epoch")


@dataclass(frozen=True, kw_only=True)
class Ranged(Counted):
    """Has no cycle before ``start`` or after ``stop``."""

    start: int | None = setting(
        "epoch (or step) after which the first cycle comes; 0: before training; null: interval",
        at_least=0, default=None,
    )  # fmt: skip
    stop: int | None = setting(
        "last epoch (or step) that a cycle may follow; null: the last but one of the run",
        at_least=0, default=None,
    )  # fmt: skip

    @property
    def last(self) -> int:
        """The last epoch or step that a cycle may follow."""
        return self.length - 1 if self.stop is None else self.stop


@dataclass(frozen=True, kw_only=True)
class Spaced(Ranged):
    """Cycles an interval apart."""

    interval: int = setting("epochs (or steps) from one cycle to the next", at_least=1, default=5)

    @property
    def first(self) -> int:
        """The first epoch or step that a cycle may follow."""
        return self.interval if self.start is None else self.start

    @property
    def cycles(self) -> int:
        """How many cycles there are, an interval apart."""
        return max(0, (self.last - self.first) // self.interval + 1)

    def number(self, at: int) -> int | None:
        """Which of these cycles, counted from 0, comes after ``at``, if any does."""
        number, rest = divmod(at - self.first, self.interval)
        return number if rest == 0 and 0 <= number < self.cycles else None


@dataclass(frozen=True, kw_only=True)
class OfShare(Given):
    """Cuts ``ratio`` of the survivors, or of all weights."""

    of: str = setting("what pruner.ratio is a share of", choices=SHARES, default="survivors")

    def share(self, surviving: int) -> float | None:
        """``ratio``, as a share of the survivors."""
        if self.of == "survivors":
            return self.ratio
        return self.to(
            1 - (surviving - round(self.ratio * self.prunable)) / self.prunable, surviving
        )


@dataclass(frozen=True, kw_only=True)
class ToSparsity(Given):
    """Ends at ``target_sparsity``."""

    to_sparsity: ClassVar[bool] = True
    target_sparsity: float = setting(
        "share of all parameters that is cut at the end", above=0, below=1
    )

    def __post_init__(self) -> None:
        self.target()

    def target(self) -> float:
        """``target_sparsity`` as a share of the prunable weights."""
        return self.prunable_sparsity("target_sparsity", self.target_sparsity)


@dataclass(frozen=True, kw_only=True)
class FromSparsity(ToSparsity):
    """Begins at ``initial_sparsity``, and takes the larger steps first."""

    initial_sparsity: float = setting(
        "share of all parameters that is cut at the beginning", at_least=0, below=1, default=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prunable_sparsity("initial_sparsity", self.initial_sparsity)

    def sparsity(self, progress: float) -> float:
        """The sparsity of the prunable weights after ``progress`` (0 to 1) of the way to the
        target; it rises fast at first (Zhu & Gupta 2017, arXiv:1710.01878)."""
        begin = self.prunable_sparsity("initial_sparsity", self.initial_sparsity)
        end = self.target()
        return end + (begin - end) * (1 - progress) ** 3
