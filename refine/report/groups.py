"""Which runs are repetitions of each other, and what are their mean and spread?"""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from refine.errors import ReportError
from refine.plain import plain
from refine.report.runs import Measurement, Run
from refine.setting import APART, within

# Repetitions differ in the seed; the other settings only say where and how a run was made.
REPEATED = ("seed", *APART)
UNSET = "unset"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n - 1) and half the width of the 95 % t interval of n numbers; None
    where there are too few."""

    n: int
    mean: float | None = None
    deviation: float | None = None
    half_width: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The lower and upper end of the 95 % t interval."""
        if self.mean is None or self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width


@dataclass(frozen=True)
class Group:
    """Runs that differ only in REPEATED settings.

    ``settings`` holds, as text, every setting in which the group differs from another one.
    """

    name: str
    settings: dict[str, str]
    runs: list[Run]

    def levels(self) -> dict[int, list[Measurement]]:
        """By the number of cycles so far: each run's last epoch before its next cycle."""
        levels: dict[int, list[Measurement]] = {}
        for run in self.runs:
            for cycles, row in run.levels().items():
                levels.setdefault(cycles, []).append(row)
        return dict(sorted(levels.items()))


@dataclass(frozen=True)
class Grouping:
    """All groups; ``shown`` are the settings in their names.

    With each are the settings that differ whenever it does, because one choice such as
    ``pruner=none`` sets them together.
    """

    groups: list[Group]
    shown: dict[str, list[str]]


def spread(values: list[float]) -> Spread:
    """The spread of ``values``."""
    n = len(values)
    if n < 2:
        return Spread(n, *values)
    from scipy.special import stdtrit  # only now: it takes longer to import than all the rest

    deviation = statistics.stdev(values)
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Spread(n, statistics.fmean(values), deviation, quantile * deviation / math.sqrt(n))


def group(runs: list[Run]) -> Grouping:
    """Groups ``runs`` by the settings that differ between them."""
    names = dict.fromkeys(
        name for run in runs for name in run.settings if not within(name, REPEATED)
    )
    columns = {name: [text(run.settings.get(name, UNSET)) for run in runs] for name in names}
    columns = {name: _shortened(column) for name, column in columns.items() if len({*column}) > 1}
    if not columns:
        return Grouping([Group("all runs", {}, runs)], {})
    by_values: dict[tuple[str, ...], list[Run]] = {}
    for run, *values in zip(runs, *columns.values(), strict=True):
        by_values.setdefault(tuple(values), []).append(run)
    shown = _shown(columns, names)
    groups = []
    for key in sorted(by_values, key=lambda key: [order(value) for value in key]):
        settings = dict(zip(columns, key, strict=True))
        name = " ".join(f"{setting}={settings[setting]}" for setting in shown)
        groups.append(Group(name, settings, by_values[key]))
    return Grouping(groups, shown)


def _shown(columns: dict[str, list[str]], names: Iterable[str]) -> dict[str, list[str]]:
    """The settings of ``columns`` that name the groups, each with those of its node that follow
    from it. What is chosen for a node, such as ``trainer.optimizer``, comes before its own
    settings."""
    nodes = {name for name in columns if any(other.startswith(f"{name}.") for other in names)}
    shown: dict[str, list[str]] = {}
    for name in sorted(columns, key=lambda name: name not in nodes):
        node, column = name.partition(".")[0], columns[name]
        for other in shown:
            pairs = {*zip(columns[other], column, strict=True)}
            if other.partition(".")[0] == node and len(pairs) == len({*columns[other]}):
                shown[other].append(name)
                break
        else:
            shown[name] = []
    return {name: shown[name] for name in columns if name in shown}


def text(value: Any) -> str:
    """A setting's value as it is written on the command line."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # 1.0 and 1 are one setting
    return plain(json.dumps(value, default=str, ensure_ascii=False))


def _shortened(column: list[str]) -> list[str]:
    """Import paths without their modules, where that keeps them apart."""
    dotted = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
    short = [v.rpartition(".")[2] if dotted.fullmatch(v) else v for v in column]
    return short if len({*short}) == len({*column}) else column


def order(value: str) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, and text after them."""
    number = _number(value)
    return number is None, number or 0.0, value


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def select(groups: list[Group], wanted: str) -> Group:
    """The only group with all the settings in ``wanted``, such as ``pruner.ratio=0.1``, or several
    with blanks between; ReportError if no group or more than one has them."""
    asked = [pair.partition("=")[::2] for pair in wanted.split()]
    chosen = [
        group
        for group in groups
        if group.name == wanted or (asked and all(_has(group, *pair) for pair in asked))
    ]
    if len(chosen) != 1:
        problem = "selects no group" if not chosen else f"selects {len(chosen)} groups"
        known = "; ".join(group.name for group in groups)
        raise ReportError(f"{wanted!r} {problem}; give settings that only one has. Known: {known}")
    return chosen[0]


def _has(group: Group, setting: str, value: str) -> bool:
    there = group.settings.get(setting)
    if there is None:
        return False
    number = _number(value)
    return there == value or (number is not None and _number(there) == number)


def paired(group: Group, reference: Group) -> Spread:
    """The spread of the final test accuracy of ``group`` minus that of ``reference``, by seed.

    ReportError if one of them has a seed twice: which runs are a pair would not be clear.
    """
    for one in (group, reference):
        if seeds := repeated_seeds(one):
            raise ReportError(f"{one.name} has several runs of seed {seeds}; pairs need one")
    theirs = {run.seed: run.end.test_accuracy for run in reference.runs}
    return spread(
        [
            run.end.test_accuracy - theirs[run.seed]
            for run in sorted(group.runs, key=lambda run: run.seed)
            if run.seed in theirs
        ]
    )


def repeated_seeds(group: Group) -> str:
    """The seeds that more than one run of the group has, as text; empty if there are none."""
    runs = Counter(run.seed for run in group.runs)
    return ", ".join(str(seed) for seed, n in sorted(runs.items()) if n > 1)
