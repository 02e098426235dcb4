"""How long does each of several programs take, under the same conditions?

Times are wall-clock seconds of single calls. The programs take turns, so that a machine that gets
slower for a while does so for all of them.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A thread pool spins for some milliseconds after its work, on the cores of the next program.
SETTLE_SECONDS = 0.004
LEAST_ROUNDS = 5  # however little time there is


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int | None = None,
    warmup: int = 3,
    *,
    seconds: float | None = None,
    seed: int = 0,
    synchronize: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """The seconds of each call, by the functions' names.

    There are ``repeats`` rounds, or as many as begin within ``seconds`` but at least 5. In a round
    each function is measured once, in an order that ``seed`` draws. Before the first round each is
    called ``warmup`` times. Before each measured call a short function is called a few times more,
    until the threads of the previous one sleep. synchronize: waits for what a call has started
    elsewhere, such as ``torch.cuda.synchronize``. ValueError unless exactly one of ``repeats`` and
    ``seconds`` is given.
    """
    if (repeats is None) == (seconds is None):
        raise ValueError("give either repeats or seconds")
    usual = {name: _warm(function, warmup, synchronize) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    order, draw = list(functions), random.Random(seed)
    end, rounds = time.perf_counter() + (seconds or 0), 0
    while rounds < repeats if repeats is not None else _another(rounds, end):
        draw.shuffle(order)
        for name in order:
            for _ in range(int(SETTLE_SECONDS / usual[name])):
                functions[name]()
            times[name].append(_timed(functions[name], synchronize))
        rounds += 1
    return times


def _another(rounds: int, end: float) -> bool:
    return rounds < LEAST_ROUNDS or time.perf_counter() < end


def _warm(function: Callable[[], Any], warmup: int, synchronize: Callable[[], Any]) -> float:
    """Warms up ``function``; the seconds of its quickest call, never 0."""
    return max(1e-5, min(_timed(function, synchronize) for _ in range(max(1, warmup))))


def _timed(function: Callable[[], Any], synchronize: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def median(times: Sequence[float]) -> float:
    """The median, in the unit of ``times``."""
    return statistics.median(times)


def p95(times: Sequence[float]) -> float:
    """The 95th percentile, in the unit of ``times``, interpolated between the nearest two."""
    if len(times) == 1:
        return times[0]
    return statistics.quantiles(times, n=20, method="inclusive")[-1]
