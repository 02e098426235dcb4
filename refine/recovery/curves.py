"""Which learning rate does a training step after a cut get?

Each curve is a function ``(step, steps, rates) -> rate``: a phase of ``steps`` training steps (at
least 1) lasts from one cut to the next, and ``step`` counts from 0. If the phase turns out longer
than planned, the rate stays at its last value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

__all__ = ["clr", "fine_tune", "lr_rewind", "one_cycle", "slr"]


@dataclass(frozen=True)
class Rates:
    """The rates that curves use. highest: the highest rate. last: the last one of the original
    schedule, or a replacement for it. original: the rates of all steps of that schedule."""

    highest: float
    last: float
    original: Sequence[float] = ()


Curve = Callable[[int, int, Rates], float]


def fine_tune(step: int, steps: int, rates: Rates) -> float:
    """The last rate, throughout (Han et al. 2015, arXiv:1506.02626)."""
    return rates.last


def lr_rewind(step: int, steps: int, rates: Rates) -> float:
    """The last ``steps`` rates of the original schedule again. If it has fewer, its first rate is
    repeated before them (Renda et al. 2020, arXiv:2003.02389)."""
    return rates.original[max(0, len(rates.original) - steps + min(step, steps - 1))]


def slr(step: int, steps: int, rates: Rates) -> float:
    """Scaled restart: in the first tenth of the steps along a cosine from the last rate up to the
    highest. Of the rest, the first half at the highest rate, the next quarter at a tenth of it, and
    the last quarter at a hundredth (Le & Hua 2021, arXiv:2105.03193)."""
    step = min(step, steps - 1)
    if 10 * step < steps:
        return _cosine(rates.last, rates.highest, 10 * step / steps)
    # The rest begins at 0.1, so the corners are at 0.1 + 0.5 * 0.9 = 0.55 and 0.1 + 0.75 * 0.9 =
    # 0.775 of all steps. In whole numbers, as floating point would put some of them a step late.
    if 1000 * step < 550 * steps:
        return rates.highest
    return rates.highest / (10 if 1000 * step < 775 * steps else 100)


def clr(step: int, steps: int, rates: Rates) -> float:
    """One cycle: up from a hundredth of the highest rate in a tenth of the steps, then down to a
    ten-thousandth (Le & Hua 2021, arXiv:2105.03193)."""
    first = rates.highest / 100
    return _cycle(step, steps, WARM_UP[clr], first, rates.highest, first / 100)


def one_cycle(step: int, steps: int, rates: Rates) -> float:
    """One cycle with PyTorch's defaults: up from 1/25 of the highest rate in three tenths of the
    steps, then down to 1/250,000 (Smith & Topin 2018, arXiv:1708.07120)."""
    first = rates.highest / 25
    return _cycle(step, steps, WARM_UP[one_cycle], first, rates.highest, first / 1e4)


# The curves with which momentum can be cycled, and the share of their steps that is warm-up.
WARM_UP: dict[Curve, float] = {clr: 0.1, one_cycle: 0.3}


def momentum(
    step: int, steps: int, warm_up: float, lowest: float = 0.85, highest: float = 0.95
) -> float:
    """The momentum for a one-cycle curve with that ``warm_up``: lowest where the rate is highest,
    so that the length of a step changes less than the rate does."""
    return _cycle(step, steps, warm_up, highest, lowest, highest)


def _cycle(
    step: int, steps: int, warm_up: float, first: float, middle: float, last: float
) -> float:
    # As torch.optim.lr_scheduler.OneCycleLR: the turn can lie between two steps, and before the
    # first one if the phase is short. If it is at 0, where torch divides by 0, the warm-up is over.
    step, turn = min(step, steps - 1), warm_up * steps - 1
    if step <= turn:
        return _cosine(first, middle, step / turn if turn > 0 else 1.0)
    return _cosine(middle, last, (step - turn) / (steps - 1 - turn))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (cos(pi * share) + 1)
