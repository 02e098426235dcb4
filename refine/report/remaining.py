"""How long will a run take from here on, its cycles included?"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ahead:
    """What a run has before it when it is shown first.

    epochs: of the whole run; done: those that an earlier part of it has done. cycles: still to
    come, as far as the schedule can tell. replay_steps: of each.
    """

    epochs: int
    done: int = 0
    cycles: int = 0
    replay_steps: int = 0


class Remaining:
    """An estimate from what epochs and cycles have taken so far.

    A cycle that has not been seen yet counts as its replay's steps, each as long as one of an
    epoch. clock: seconds, from any start.
    """

    def __init__(self, ahead: Ahead, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._ahead = clock, ahead
        self._epochs, self._cycles = 0, 0  # seen
        self._epoch_seconds, self._cycle_seconds = 0.0, 0.0  # of these
        self._share, self._steps = 0.0, 0  # of the present epoch that is done; steps of an epoch
        self._since = clock()  # when the present epoch or cycle began

    def step(self, step: int, steps: int) -> None:
        """``step`` of the ``steps`` of an epoch are done."""
        self._share, self._steps = step / steps, steps

    def epoch(self) -> None:
        """An epoch has ended, and was measured."""
        self._epochs += 1
        self._epoch_seconds += self._lap()
        self._share = 0.0

    def cycle(self) -> None:
        """A cycle has ended."""
        self._cycles += 1
        self._cycle_seconds += self._lap()

    def seconds(self) -> float | None:
        """What is left; None before anything is known."""
        running = self._clock() - self._since
        if self._epochs:
            epoch = self._epoch_seconds / self._epochs
        elif self._share:
            epoch = running / self._share
        else:
            return None
        if self._cycles:
            cycle = self._cycle_seconds / self._cycles
        else:
            cycle = epoch * self._ahead.replay_steps / self._steps if self._steps else 0.0
        epochs = self._ahead.epochs - self._ahead.done - self._epochs - self._share
        cycles = max(0, self._ahead.cycles - self._cycles)
        return max(0.0, epochs) * epoch + cycles * cycle

    def _lap(self) -> float:
        now, before = self._clock(), self._since
        self._since = now
        return now - before


def spoken(seconds: float | None) -> str:
    """``seconds`` in words, roughly, such as "2 min left"; nothing for None."""
    if seconds is None:
        return ""
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {name} left"
    return f"{seconds:.0f} s left"
