"""Which schedules cut to given sparsities?"""

from dataclasses import dataclass
from typing import ClassVar

from refine.errors import FieldError
from refine.schedule.base import Counted, FromSparsity, Spaced, ToSparsity
from refine.setting import setting


@dataclass(frozen=True, kw_only=True)
class Geometric(ToSparsity, Spaced):
    """Cycles that each cut ratio of the survivors until target_sparsity, which the last one meets
    (iterative magnitude pruning: Han et al. 2015, arXiv:1506.02626)."""

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio, or what is left to the target."""
        rest = self.to(self.target(), surviving)
        if self.number(at) is None or rest is None or rest <= 0:
            return None
        return min(self.ratio, rest)

    def check_end(self, surviving: int, cycles: int) -> None:
        """FieldError if the target is not reached."""
        rest = self.to(self.target(), surviving)
        if rest is not None and rest > 0:
            raise FieldError(
                "target_sparsity",
                f"{self.target_sparsity:g} is not reached by {cycles} cycles of {self.ratio:g}; "
                "set pruner.ratio, schedule.interval or trainer.epochs",
            )


@dataclass(frozen=True, kw_only=True)
class Cubic(FromSparsity, Spaced):
    """Cycles after start, start + interval, … up to stop, from initial_sparsity to target_sparsity:
    large cuts first, while there is most to cut (Zhu & Gupta 2017, arXiv:1710.01878)."""

    cuts_ratio: ClassVar[bool] = False

    def due(self, at: int, surviving: int) -> float | None:
        """The share that takes the sparsity to its next value, if any."""
        number = self.number(at)
        if number is None:
            return None
        return self.to(self.sparsity((number + 1) / self.cycles), surviving)


@dataclass(frozen=True, kw_only=True)
class Listed(Counted):
    """A cycle after each epoch or step in ``at``, to its entry in ``sparsities``."""

    cuts_ratio: ClassVar[bool] = False
    grows: ClassVar[bool] = True
    to_sparsity: ClassVar[bool] = True
    at: list[int] = setting("epochs (or steps) after which a cycle comes", at_least=0)
    sparsities: list[float] = setting(
        "share of all parameters that is cut after each of these", at_least=0, below=1
    )

    def __post_init__(self) -> None:
        if not self.at or len(self.at) != len(self.sparsities):
            raise FieldError(
                "sparsities",
                "must be a list of the same length as schedule.at, such as at=[4,8] "
                "sparsities=[0.5,0.9]",
            )
        if (
            list(self.at) != sorted(set(self.at))
            or not 0 <= self.at[0] <= self.at[-1] <= self.length
        ):
            raise FieldError("at", f"must rise from 0 to at most {self.length}")
        for sparsity in self.sparsities:
            self.prunable_sparsity("sparsities", sparsity)

    def due(self, at: int, surviving: int) -> float | None:
        """The share that takes the sparsity to the one that is listed, if any."""
        if at not in self.at:
            return None
        sparsity = self.sparsities[self.at.index(at)]
        return self.to(self.prunable_sparsity("sparsities", sparsity), surviving)


@dataclass(frozen=True, kw_only=True)
class Cyclic(FromSparsity, Spaced):
    """Every ``period`` cycles go from initial_sparsity to target_sparsity. After each period but
    the last, all that it cut grows back at once (Srinivas et al. 2022, arXiv:2202.01290)."""

    cuts_ratio: ClassVar[bool] = False
    grows: ClassVar[bool] = True
    needs_regrowth: ClassVar[bool] = True
    initial_sparsity: float = setting(
        "share of all parameters that is cut at the beginning and after growing back",
        at_least=0, below=1, default=0.0,
    )  # fmt: skip
    period: int = setting(
        "number of cycles in a period, after which weights grow back", at_least=2, default=5
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.period <= self.cycles:
            raise FieldError(
                "period",
                f"must be from 2 to the {self.cycles} cycles of the run, not {self.period}",
            )

    def due(self, at: int, surviving: int) -> float | None:
        """The share that takes the sparsity up, or at the start of a period down."""
        number = self.number(at)
        if number is None:
            return None
        # The last period ends with the last cycle; a first one that is shorter begins later.
        place = (number - self.cycles) % self.period
        return self.to(self.sparsity(place / (self.period - 1)), surviving)
