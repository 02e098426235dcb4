"""Which schedules cut by ``ratio``, and which one never cuts?"""

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

from refine.errors import FieldError
from refine.schedule.base import Given, OfShare, Ranged, Spaced
from refine.setting import setting


@dataclass(frozen=True)
class Never(Given):
    """No cycle."""

    by: ClassVar[str] = "epoch"
    cuts_ratio: ClassVar[bool] = False
    expects_cycles: ClassVar[bool] = False

    def due(self, at: int, surviving: int) -> float | None:
        """None, always."""
        return None


@dataclass(frozen=True, kw_only=True)
class Periodic(OfShare, Spaced):
    """A cycle after start, start + interval, … up to stop, each cutting ratio."""

    splits_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of == "all" and self.ratio * self.cycles >= 1:
            raise FieldError(
                "of",
                f"cannot be all: {self.cycles} cycles that each cut {self.ratio:g} of all weights "
                "leave nothing; lower pruner.ratio or set schedule.stop",
            )

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio, if a cycle is due."""
        return None if self.number(at) is None else self.share(surviving)


@dataclass(frozen=True, kw_only=True)
class OneShot(OfShare, Ranged):
    """One cycle after start, by default half-way through the run. It cuts to target_sparsity, or
    without one as much as ``cycles_at_once`` cycles of ratio would."""

    splits_target: ClassVar[bool] = True
    start: int | None = setting(
        "epoch (or step) after which the cycle comes; 0: before training; null: half-way",
        at_least=0, default=None,
    )  # fmt: skip
    cycles_at_once: int = setting(
        "how many cycles it stands for: cuts as much as they would", at_least=1, default=1
    )
    target_sparsity: float | None = setting(
        "share of all parameters that is cut; null: as pruner.ratio says",
        above=0, below=1, default=None,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.target_sparsity is not None:
            self.prunable_sparsity("target_sparsity", self.target_sparsity)
        elif self.cycles_at_once > 1 and self.of != "survivors":
            raise FieldError("of", "must be survivors with cycles_at_once above 1")

    def due(self, at: int, surviving: int) -> float | None:
        """What it cuts, if the cycle is due."""
        start = max(1, self.length // 2) if self.start is None else self.start
        if not at == start <= self.last:
            return None
        if self.target_sparsity is not None:
            target = self.prunable_sparsity("target_sparsity", self.target_sparsity)
            return self.to(target, surviving)
        if self.cycles_at_once == 1:  # 1 - (1 - 0.15) is not quite 0.15
            return self.share(surviving)
        return 1 - (1 - self.ratio) ** self.cycles_at_once


@dataclass(frozen=True, kw_only=True)
class Cosine(Spaced):
    """Cycles of a ratio that falls from ``ratio`` to 0 along half a cosine until stop: the share
    that dynamic sparse training exchanges (Evci et al. 2020, arXiv:1911.11134)."""

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio at this point of the cosine."""
        if self.number(at) is None:
            return None
        ratio = self.ratio / 2 * (1 + cos(pi * at / (self.last + 1)))
        return ratio if ratio > 0 else None


@dataclass(frozen=True, kw_only=True)
class Adaptive(OfShare, Spaced):
    """A cycle after start, start + interval, … up to stop, that cuts as much as keeps validation
    accuracy within ``tolerance`` of the best so far, at most ratio, found by bisection."""

    needs_validation: ClassVar[bool] = True
    tolerance: float = setting(
        "how much validation accuracy a cut may cost", at_least=0, below=1, default=0.01
    )

    def due(self, at: int, surviving: int) -> float | None:
        """The ratio that is tried first; see ``accept`` of ``refinement_cycle``."""
        return None if self.number(at) is None else self.share(surviving)
