"""What is searched? Overrides whose values are Hydra's sweeps, as distributions of Optuna."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from refine.cli.compose import EXPLAINED, composed
from refine.config import validate
from refine.errors import SettingError

KINDS = "choice(a,b), interval(0.1,0.5), range(1,6), tag(log,interval(1e-4,1e-1))"


@dataclass(frozen=True)
class Space:
    """``fixed`` overrides, and what is searched by the name of its override, as in
    ``pruner.ratio`` or ``+model.width``; of a categorical the values are as typed."""

    fixed: list[str]
    searched: dict[str, BaseDistribution]

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """The overrides of one trial."""
        return [*self.fixed, *(f"{name}={value}" for name, value in values.items())]


def parsed(overrides: list[str]) -> Space:
    """The space that ``overrides`` declare; SettingError if they declare none or an empty one."""
    try:
        entries = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        reasons = [line for line in error.message.splitlines() if "parsing override" not in line]
        raise SettingError(error.override, reasons[0] if reasons else error.message) from None
    fixed = [entry.input_line for entry in entries if not entry.is_sweep_override()]
    searched: dict[str, BaseDistribution] = {}
    names = [entry.get_key_element().lstrip("+") for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        if entry.is_sweep_override():
            if names.count(name) > 1:
                raise SettingError(name, "is given twice; leave one")
            searched[entry.get_key_element()] = _distribution(name, entry)
    if not searched:
        raise SettingError("nothing to search", f"give a setting several values, such as {KINDS}")
    return Space(fixed, searched)


def check(space: Space) -> None:
    """Composes and validates both ends of every distribution and every choice, the other settings
    at their first values, then at their last: a mistake shall not wait for its trial. SettingError
    or Hydra's error for a value that goes with neither."""
    ends = {name: list(_ends(searched)) for name, searched in space.searched.items()}
    for name, values in ends.items():
        for value in values:
            problems = []
            for others in (0, -1):
                trial = {other: choices[others] for other, choices in ends.items()} | {name: value}
                try:
                    checked(space.overrides(trial))
                except EXPLAINED as error:
                    problems.append(error)
                else:
                    break
            else:
                raise problems[0]


def checked(overrides: list[str]) -> DictConfig:
    """The valid configuration of ``overrides``, one that a study can choose by."""
    config = composed(overrides)
    validate(config)
    if config.dataset.validation_size == 0:
        raise SettingError(
            "dataset.validation_size",
            "is 0, and a study chooses by validation accuracy; set it, such as "
            "dataset.validation_size=200",
        )
    if config.output_dir is not None:
        raise SettingError("output_dir", "each trial has its own; give the study's as --directory")
    return config


def _distribution(name: str, entry: Override) -> BaseDistribution:
    value = entry.value()
    if isinstance(value, Glob):
        raise SettingError(name, "a study needs the options by name, such as choice(a,b)")
    log = "log" in value.tags
    if value.tags - {"log"} or (log and entry.is_choice_sweep()):
        raise SettingError(name, "tag(log,...) goes with interval and range, and is the only tag")
    if isinstance(value, IntervalSweep):
        low, high, step = value.start, value.end, None
        if not -math.inf < low < high < math.inf:
            raise SettingError(name, f"interval({low:g},{high:g}) is none; the lower end is first")
    elif isinstance(value, RangeSweep):
        numbers = sorted(value.range()) if value.step else []
        if not numbers:
            shown = f"range({value.start},{value.stop},{value.step})"
            raise SettingError(name, f"{shown} is empty; it goes from its start to below its stop")
        low, high, step = numbers[0], numbers[-1], abs(value.step)
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
    else:
        yield from (searched.low, searched.high)
