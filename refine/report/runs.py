"""Which runs do directories hold, and what did each measure?

Only finished runs whose files are whole are read. Every other directory is named with the reason,
so that nothing is used or dropped in silence.
"""

import csv
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from refine import schedule
from refine.errors import ReportError
from refine.plain import plain
from refine.records.rows import CONFIG_FILE, EPOCHS_FILE, LOG_FILE, SUMMARY_FILE
from refine.report.texts import Unusable, json_of, text_of, yaml_of
from refine.setting import flat

# Keys of config.yaml that are for refine-run and no settings of the run.
HEADER = ("defaults", "hydra")
FOREIGN = "holds no run"
REASON = 300  # characters of a reason that are shown


class Measurement(NamedTuple):
    """What reports use of a row of ``metrics.csv``, or of the run's end."""

    epoch: int
    cycles: int
    test_accuracy: float
    sparsity: float


@dataclass(frozen=True)
class Run:
    """A finished run.

    ``settings`` are by dotted name, such as ``pruner.ratio``; ``model`` is the import path of the
    chosen network, and so for every node with a ``_target_``.
    """

    directory: Path
    settings: dict[str, Any]
    epochs: list[Measurement]
    end: Measurement
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed that the configuration names."""
        seed: int = self.settings["seed"]
        return seed

    def levels(self) -> dict[int, Measurement]:
        """By the number of cycles so far: the last epoch before the next cycle."""
        return {row.cycles: row for row in self.epochs}


def find(directories: list[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The run directories at or below ``directories``, each once, and why others are left out: the
    topmost ones without a run. ReportError if one of ``directories`` is no directory."""
    found: dict[Path, Path] = {}  # by the place on the disk, so that no run counts twice
    foreign: dict[Path, str] = {}
    for directory in directories:
        if not directory.is_dir():
            problem = "is not a directory" if directory.exists() else "does not exist"
            raise ReportError(f"{directory} {problem}")
        runs, others = _search(directory)
        for run in runs:
            found.setdefault(run.resolve(), run)
        foreign |= others
    return list(found.values()), foreign


def _search(directory: Path, above: tuple[Path, ...] = ()) -> tuple[list[Path], dict[Path, str]]:
    here = (*above, directory.resolve())
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        return [], {directory: f"cannot be read: {error.strerror}"}
    names = {entry.name for entry in entries}
    runs = [directory] if names & {EPOCHS_FILE, SUMMARY_FILE, LOG_FILE} else []
    foreign: dict[Path, str] = {}
    for entry in entries:
        if not entry.is_dir() or entry.name.startswith("."):  # hidden directories belong to tools
            continue
        if entry.is_symlink() and entry.resolve() in here:  # a circle
            continue
        inner, others = _search(entry, here)
        runs += inner
        foreign |= others
    if directory in runs:  # what a run keeps inside its directory is no other run
        return runs, {}
    if not runs and all(reason == FOREIGN for reason in foreign.values()):
        return [], {directory: FOREIGN}
    return runs, foreign


def read(directories: list[Path]) -> tuple[list[Run], dict[Path, str]]:
    """The finished runs among run ``directories``, and why the others are left out."""
    runs: list[Run] = []
    left_out: dict[Path, str] = {}
    for directory in directories:
        try:
            runs.append(read_run(directory))
        except Unusable as reason:
            left_out[directory] = plain(reason)[:REASON]
    return runs, left_out


def read_run(directory: Path) -> Run:
    """The run in ``directory``; Unusable if it has not finished or a file of it is broken."""
    if not (directory / SUMMARY_FILE).exists():
        raise Unusable(f"unfinished: there is no {SUMMARY_FILE}")
    summary = json_of(directory / SUMMARY_FILE)
    if not isinstance(summary, dict) or "status" not in summary:
        raise Unusable(f"{SUMMARY_FILE} is not a run's: it has no status")
    if summary["status"] != "finished":
        raise Unusable(f"{summary['status']}: {summary.get('reason') or 'no reason recorded'}")
    end = _measurement(summary, SUMMARY_FILE, epoch="epochs")
    settings = settings_of(directory)
    epochs = read_epochs(directory / EPOCHS_FILE)
    numbers = (row.epoch for row in epochs)
    if len(epochs) != end.epoch or any(map(int.__ne__, numbers, range(1, len(epochs) + 1))):
        raise Unusable(f"{EPOCHS_FILE} does not hold the epochs 1 to {end.epoch} of the run")
    return Run(directory, settings, epochs, end, summary)


def read_epochs(path: Path) -> list[Measurement]:
    """The rows of a ``metrics.csv``; Unusable if it is broken or has none."""
    rows = rows_of(path)
    return [
        _measurement(row, f"row {number} of {path.name}", epoch="epoch")
        for number, row in enumerate(rows, start=1)
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a run's table as text; Unusable if it is broken or has none."""
    text = text_of(path)
    if text and not text.endswith("\n"):
        raise Unusable(f"{path.name} is truncated: its last line has no end")
    rows: list[dict[str, str]] = []
    try:
        for row in csv.DictReader(text.splitlines(), strict=True):
            where = f"row {len(rows) + 1} of {path.name}"
            if None in row or None in row.values():
                raise Unusable(f"{where} has more or fewer values than the header has names")
            rows.append(row)
    except csv.Error as error:
        raise Unusable(f"{path.name} is not valid CSV: {error}") from None
    if not rows:
        raise Unusable(f"{path.name} has no rows")
    return rows


def _measurement(row: dict[str, Any], where: str, epoch: str) -> Measurement:
    values = []
    for name in (epoch, "cycles", "test_accuracy", "sparsity"):
        try:
            value = float(row[name])
        except KeyError:
            raise Unusable(f"{where} has no {name}") from None
        except (TypeError, ValueError, OverflowError):
            raise Unusable(f"{where}: {name} is {row[name]!r:.40}, not a number") from None
        counts = name in (epoch, "cycles")
        if not math.isfinite(value) or (counts and not (value.is_integer() and 0 <= value < 1e9)):
            raise Unusable(f"{where}: {name} is {value}")
        values.append(value)
    return Measurement(int(values[0]), int(values[1]), values[2], values[3])


def settings_of(directory: Path) -> dict[str, Any]:
    """A run's settings by dotted name; Unusable if its configuration is broken."""
    path = directory / CONFIG_FILE
    config = yaml_of(path)
    if not isinstance(config, dict) or not isinstance(config.get("seed"), int):
        raise Unusable(f"{path.name} is not a run's: it names no seed")
    try:
        found = dict(flat({key: value for key, value in config.items() if key not in HEADER}))
    except (TypeError, RecursionError):
        raise Unusable(f"{path.name} is not a run's: it has names that are no text") from None
    # Version 0.1.0 saved every schedule's settings with each; ours have what they name.
    module, _, name = str(found.get("schedule")).rpartition(".")
    if module == "refine.schedule" and hasattr(schedule, name):
        own = {f"schedule.{entry.name}" for entry in fields(getattr(schedule, name))}
        found = {n: v for n, v in found.items() if not n.startswith("schedule.") or n in own}
    return found
