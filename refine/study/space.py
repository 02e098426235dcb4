"""Which settings are searched? Overrides with Hydra's sweeps become Optuna's distributions."""

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep, Sweep
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from refine.cli.compose import EXPLAINED, tried
from refine.cli.idle import Idle
from refine.cli.overrides import length, read, readable
from refine.config import validate
from refine.errors import SettingError

NOT_IN_STUDIES = {
    "output_dir": "each trial has its own; give the study's as --directory",
    "resume": "each trial is a run of its own; the same command continues a study",
    "sweep.dry_run": "lists the runs of refine-run -m; leave it out",
}
MOST_TRIED = 200  # combinations of a study, to find one in which a setting has an effect
VALUES = "choice(a,b), interval(0.1,0.5), range(1,6), tag(log,interval(1e-4,1e-1))"


@dataclass(frozen=True)
class Space:
    """``fixed`` overrides, and a distribution for the key of each searched one, such as
    ``pruner.ratio`` or ``+model.width``; the values of a categorical one are as typed."""

    fixed: list[str]
    searched: dict[str, BaseDistribution]

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """The overrides of one trial."""
        return [*self.fixed, *(f"{name}={value}" for name, value in values.items())]


def parsed(overrides: list[str]) -> Space:
    """The space that ``overrides`` declare; SettingError if there is nothing to search."""
    overrides = readable(overrides, several=True)
    entries = read(overrides)
    fixed = [text for text, o in zip(overrides, entries, strict=True) if not o.is_sweep_override()]
    searched: dict[str, BaseDistribution] = {}
    names = [entry.get_key_element().lstrip("+") for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        if entry.is_sweep_override():
            if names.count(name) > 1:
                raise SettingError(name, "is given twice; leave one")
            searched[entry.get_key_element()] = _distribution(name, entry)
    if not searched:
        raise SettingError("nothing to search", f"give a setting several values, such as {VALUES}")
    return Space(fixed, searched)


def check(space: Space) -> list[str]:
    """Composes and validates both ends of every distribution, and every choice, so that a mistake
    is found before the first trial.

    The other settings have their first values, or else their last. SettingError or Hydra's error
    for a value that is valid with neither, or a setting without effect in all of these trials. A
    line for each that has none in some of them.
    """
    idle = Idle()
    ends = {name: list(_ends(searched)) for name, searched in space.searched.items()}
    for name, values in ends.items():
        for value in values:
            problems: list[Exception] = []
            for others in (0, -1):
                trial = {other: choices[others] for other, choices in ends.items()} | {name: value}
                try:
                    checked(space.overrides(trial), idle)
                except EXPLAINED as error:
                    problems.append(error)
                else:
                    break
            else:
                raise problems[0]
    combinations = itertools.product(*ends.values()) if idle.nowhere() else ()
    for each in itertools.islice(combinations, MOST_TRIED):
        with suppress(*EXPLAINED):
            checked(space.overrides(dict(zip(ends, each, strict=True))), idle)
    return idle.notes()


def checked(overrides: list[str], idle: Idle | None = None) -> DictConfig:
    """The valid configuration of ``overrides``; SettingError if a study cannot use it. ``idle``
    counts it."""
    config, in_vain = tried(overrides)
    validate(config)
    for name, problem in NOT_IN_STUDIES.items():
        if OmegaConf.select(config, name):
            raise SettingError(name, problem)
    if idle is not None:
        idle.add(in_vain)
    if config.dataset.validation_size == 0:
        raise SettingError(
            "dataset.validation_size",
            "is 0, and a study chooses by validation accuracy; set it, such as "
            "dataset.validation_size=200",
        )
    return config


def _distribution(name: str, entry: Override) -> BaseDistribution:
    value = entry.value()
    if isinstance(value, Glob):
        raise SettingError(name, "a study needs the options by name, such as choice(a,b)")
    assert isinstance(value, Sweep)  # every sweep but a Glob is one
    log = "log" in value.tags
    if value.tags - {"log"} or (log and entry.is_choice_sweep()):
        raise SettingError(
            name, "the only tag is log, as in tag(log,interval(1,9)), and not for choices"
        )
    low: float | None
    high: float | None
    step: float | None = None
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None or not -math.inf < low < high < math.inf:
            shown = f"interval({low:g},{high:g})"
            raise SettingError(name, f"{shown} is empty or endless; the lower end is first")
    elif isinstance(value, RangeSweep):
        count = length(value)
        if not count:
            shown = f"range({value.start},{value.stop},{value.step})"
            raise SettingError(name, f"{shown} is empty; it goes from its start to below its stop")
        assert value.start is not None
        low, high = sorted((value.start, value.start + (count - 1) * value.step))
        step = abs(value.step)
    else:
        return CategoricalDistribution(list(dict.fromkeys(entry.sweep_string_iterator())))
    if log and (low <= 0 or step not in (None, 1)):
        raise SettingError(name, "tag(log,...) needs numbers above 0 and no steps but of 1")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return IntDistribution(low, high, log=log, step=step or 1)
    # Sums of steps miss the last number by a rounding error.
    return FloatDistribution(low, high if step is None else round(high, 12), log=log, step=step)


def _ends(searched: BaseDistribution) -> Iterator[Any]:
    if isinstance(searched, CategoricalDistribution):
        yield from searched.choices
    elif isinstance(searched, FloatDistribution | IntDistribution):
        yield from (searched.low, searched.high)
