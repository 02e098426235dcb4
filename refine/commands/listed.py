"""How far is a run, how good is it, and what does it take on the disk?"""

import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refine.errors import ReportError
from refine.plain import plain
from refine.records.lock import running
from refine.records.rows import CHECKPOINT_FILES, CONFIG_FILE, EPOCHS_FILE, SUMMARY_FILE
from refine.report import runs
from refine.report.texts import Unusable, json_of

DEFAULT = Path("results")  # where runs, sweeps and studies go unless told otherwise
# What people call the ways in which a run ends; others, such as a study's "pruned", stay.
STATUSES = {"interrupted": "stopped", "preempted": "stopped"}


@dataclass(frozen=True)
class Listed:
    """A run, whether it has finished or not; accuracies and sparsity are the last ones measured."""

    directory: Path
    status: str
    reason: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    validation: float | None = None
    test: float | None = None
    sparsity: float | None = None

    @property
    def planned(self) -> int | None:
        """How many epochs the run is to have."""
        epochs = self.settings.get("trainer.epochs")
        return epochs if isinstance(epochs, int) else None

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints that are there."""
        return [path for name in CHECKPOINT_FILES if is_file(path := self.directory / name)]

    @property
    def size(self) -> int:
        """The bytes of all files in the run's directory."""
        return sum(sizes(self.directory).values())


def find(directories: list[Path]) -> tuple[list[Listed], dict[Path, str]]:
    """The runs at or below ``directories``, or below the usual one if there are none, and why
    others are left out. ReportError if there is no run."""
    if not directories and not DEFAULT.is_dir():
        raise ReportError(f"there is no directory {DEFAULT} here; name the one with your runs")
    directories = directories or [DEFAULT]
    places, left_out = runs.find(directories)
    found = []
    for place in places:
        try:
            found.append(read(place))
        except Unusable as reason:
            left_out[place] = plain(reason)[: runs.REASON]
    if not places:
        raise ReportError(f"there is no run in {', '.join(plain(entry) for entry in directories)}")
    return found, left_out


def one(directory: Path) -> Listed:
    """The run in ``directory``; ReportError if there is none, or a file of it is broken."""
    found, _ = runs.find([directory])
    if directory not in found:
        more = f"; refine ls {directory} lists those below it" if found else ""
        raise ReportError(f"{plain(directory)} {runs.FOREIGN}{plain(more)}")
    try:
        return read(directory)
    except Unusable as reason:
        raise ReportError(f"{plain(directory)}: {plain(reason)[: runs.REASON]}") from None


def read(directory: Path, *, alone: bool = False) -> Listed:
    """The run in ``directory``; Unusable if a file of it is broken, or a finished one's is missing.
    ``alone``: its lock is held, so that nobody else runs it."""
    summary = json_of(directory / SUMMARY_FILE) if (directory / SUMMARY_FILE).exists() else {}
    if not isinstance(summary, dict):
        raise Unusable(f"{SUMMARY_FILE} is not a run's: it has no status")
    if not alone and running(directory):
        status, summary = "running", {}
    elif summary.get("status") == "finished":
        run, validation = runs.read_run(directory), _number(summary.get("validation_accuracy"))
        return Listed(
            directory, "finished", None, run.settings, summary,
            run.end.epoch, validation, run.end.test_accuracy, run.end.sparsity,
        )  # fmt: skip
    else:
        told = plain(summary.get("status") or "stopped")[:20]
        status = STATUSES.get(told, told)
    has_settings = (directory / CONFIG_FILE).exists()
    settings = runs.settings_of(directory) if has_settings else {}
    reason = summary.get("reason")
    reason = None if reason is None else plain(reason)[: runs.REASON]
    if not (directory / EPOCHS_FILE).exists():
        return Listed(directory, status, reason, settings, summary)
    last = runs.read_epochs(directory / EPOCHS_FILE)[-1]
    held_out = runs.rows_of(directory / EPOCHS_FILE)[-1].get("validation_accuracy")
    return Listed(
        directory, status, reason, settings, summary,
        last.epoch, _number(held_out), last.test_accuracy, last.sparsity,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_file(path: Path) -> bool:
    """Whether there is a file, which is no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def sizes(directory: Path) -> dict[Path, int]:
    """The bytes of each file at or below a directory; no link is followed."""
    found = {}
    for place, folders, names in os.walk(directory):
        folders.sort()
        for path in (Path(place) / name for name in sorted(names)):
            if is_file(path):
                found[path] = path.lstat().st_size
    return found


def by_validation(found: Iterable[Listed]) -> bool:
    """Whether every run that has an accuracy has one on validation images: then it decides which
    is the best, as nothing is chosen by test accuracy that need not be."""
    measured = [run for run in found if run.test is not None]
    return bool(measured) and all(run.validation is not None for run in measured)
