"""What did a person type? Overrides, as Hydra's grammar can read them and as it reads them."""

import itertools
import math
import re
from collections.abc import Iterator

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException

from refine.cli.guesses import PARSERS_WORDS, check_whole
from refine.config import settings
from refine.errors import SettingError

# Paths and other text. What stands below the free nodes may be text, as only their targets know.
TEXT = {name for name, entry in settings() if entry.metadata.get("text")} | {"hydra.sweep.dir"}
FREE = (
    "model.", "dataset.", "schedule.", "tracker.", "trainer.optimizer.", "trainer.lr_scheduler.",
)  # fmt: skip
MOST_RUNS = 10_000  # of a sweep; more are a slip, such as range(0,1000000000)
UNREADABLE = (HydraException, ValueError, TypeError, OverflowError, RecursionError)
CALL = re.compile(r"[a-z]+\(.*\)", re.DOTALL)  # choice(a,b), range(1,9), glob(*), …


def readable(overrides: list[str], several: bool) -> list[str]:
    """``overrides`` with quotes around text that Hydra would refuse or take for a number or a list.

    several: whether a,b means two values, as in a sweep. SettingError for what is no override.
    """
    check_whole(overrides)
    found = [_readable(override, several) for override in overrides]
    read(found)
    return found


def _readable(override: str, several: bool) -> str:
    key, equals, value = override.partition("=")
    name = key.strip().lstrip("+")
    if not name.strip("~"):
        raise SettingError("refine", f"{override[:80]!r} is no override; write SETTING=VALUE")
    if not equals:
        return override
    if name in TEXT:
        return f"{key}={_text(value, several)}"
    if name.startswith(FREE) and parsed(override) is None and value[:1] not in "[{(\"'":
        return f"{key}={_each(value, several)}"
    return override


def _text(value: str, several: bool) -> str:
    """The value of a setting that is text."""
    found = parsed(f"x={value}")
    if found is None:
        return _each(value, several)
    read = found.value()
    if isinstance(read, ChoiceSweep) and read.simple_form:
        plain = all(isinstance(entry, str | QuotedString) for entry in read.list)
        return value if several and plain else _each(value, several)
    if found.is_sweep_override() or read is None or isinstance(read, str):
        return value
    return quoted(value)


def _each(value: str, several: bool) -> str:
    """A value in quotes; with ``several``, each of those between its commas."""
    if several and "," in value and not CALL.fullmatch(value):
        return ",".join(_text(entry, several=False) for entry in value.split(","))
    return quoted(value)


def quoted(text: str) -> str:
    """``text`` in quotes, in place of those that it may have."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def parsed(override: str) -> Override | None:
    """What Hydra reads; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(override)
    except UNREADABLE:
        return None


def read(overrides: list[str], loader: ConfigLoader | None = None) -> list[Override]:
    """What Hydra reads; SettingError where it cannot. ``loader`` knows the options of groups."""
    parser = OverridesParser.create(config_loader=loader)
    found = []
    for override in overrides:
        try:
            entry = parser.parse_override(override)
            entry.config_loader = loader
            entry.value()
        except UNREADABLE as error:
            raise unreadable(override, error) from None
        found.append(entry)
    return found


def unreadable(override: str, error: Exception) -> SettingError:
    """What to say of an override that is outside Hydra's grammar."""
    name, _, value = override.partition("=")
    reason = str(error).partition("while evaluating")[2].partition(": ")[2]
    told = reason and not PARSERS_WORDS.search(reason)
    why = f": {reason:.100}" if told else "; put text with special characters in quotes"
    problem = f"cannot read {name[:60]}={value[:60]}{why}"
    return SettingError(name.lstrip("+~")[:60] or "refine", " ".join(problem.split()))


def names(overrides: list[str]) -> set[str]:
    """The settings and groups that ``overrides`` name."""
    return {entry.get_key_element().lstrip("+~") for entry in read(overrides)}


def given(overrides: list[str], name: str) -> str | None:
    """The value that ``overrides`` give the setting ``name``, the last one; None without one."""
    values = [o for o in read(overrides) if o.get_key_element().lstrip("+") == name]
    if not values or values[-1].value() is None:
        return None
    if values[-1].is_sweep_override():
        raise SettingError(name, "takes one value; write commas that belong to it in quotes")
    return str(values[-1].value())


def keys_of(overrides: list[str]) -> list[str]:
    """What each of ``overrides`` sets."""
    return [entry.key_or_group for entry in read(overrides)]


def swept(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The names of the settings that a sweep varies, and the overrides that all its jobs share."""
    own = [entry for entry in read(overrides) if not _hydras(entry)]
    varied = [entry.get_key_element() for entry in own if entry.is_sweep_override()]
    return varied, [_line(entry) for entry in own if not entry.is_sweep_override()]


def combinations(entries: list[Override]) -> Iterator[list[str]]:
    """The overrides of every run of a sweep; SettingError if there are too many."""
    own = [entry for entry in entries if not _hydras(entry)]
    for entry in own:
        if not _count(entry):
            raise SettingError(entry.get_key_element(), f"{entry.get_value_string()} has no value")
    whole = math.prod(_count(entry) for entry in own)
    if whole > MOST_RUNS:
        problem = f"makes {whole:,} runs; {MOST_RUNS:,} are the most, so give fewer values"
        raise SettingError("refine-run -m", problem)
    return map(list, itertools.product(*map(_values, own)))


def _count(override: Override) -> int:
    """How many values a sweep has, without making them."""
    value = override.value()
    if isinstance(value, RangeSweep):
        return length(value)
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def length(sweep: RangeSweep) -> int:
    """How many numbers a range has; 0 without a step."""
    if not sweep.step or sweep.start is None or sweep.stop is None:
        return 0
    if not math.isfinite(steps := (sweep.stop - sweep.start) / sweep.step):
        return 0
    return max(0, math.ceil(steps))


def _hydras(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _line(override: Override) -> str:
    """An override as it was typed."""
    return override.input_line or ""


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [_line(override)]
    if not override.is_discrete_sweep():
        raise SettingError(
            override.get_key_element(),
            f"{override.get_value_string()} is no list of values; a sweep takes a,b,c, range or "
            "choice, and refine-study searches an interval",
        )
    name = override.get_key_element()
    return [f"{name}={value}" for value in override.sweep_string_iterator()]
