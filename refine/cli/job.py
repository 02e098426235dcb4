"""What is one run of a sweep: where is it, and how far is it?

Everything is read from the run's directory: which process runs it, and on which machine, makes no
difference.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from refine.config import fingerprint
from refine.records.lock import held
from refine.records.rows import EPOCHS_FILE, LOG_FILE, SUMMARY_FILE
from refine.report import runs

NAME_LENGTH = 120  # of a directory; file systems end at 255 bytes


class Job:
    """One run of a sweep in ``place``; ``name`` is what distinguishes it from the others.

    It remembers in which state the run was when the sweep was started, which is now.
    """

    def __init__(self, name: str, config: DictConfig, place: Path):
        self.name, self.config, self.place = name, config, place
        self.fingerprint = fingerprint(config)
        self.reported = False  # whether a line on its end was shown
        self.skipped = self._is_whole()  # whether it had finished before, with all its files
        self._summary_before = self._changed(SUMMARY_FILE)
        self._log_before = self._changed(LOG_FILE)

    @property
    def directory(self) -> Path | None:
        """The run's directory, if it has one by now."""
        return find(self.place, self.fingerprint)

    def summary(self) -> dict[str, Any] | None:
        """How the run ended, as its own summary says; None if it has not ended."""
        text = self._read(SUMMARY_FILE)
        try:
            summary: dict[str, Any] | None = None if text is None else json.loads(text)
        except ValueError:
            return None
        return summary

    def finished(self) -> bool:
        """Whether the run has ended without being stopped or failing."""
        return (self.summary() or {}).get("status") == "finished"

    def outcome(self) -> dict[str, Any] | None:
        """The summary, if the run has ended since the sweep was started or was skipped."""
        summary = self.summary()
        old = self._changed(SUMMARY_FILE) == self._summary_before
        return None if old and not self.skipped else summary

    def epochs(self) -> int:
        """The number of epochs that are measured so far."""
        return max(0, (self._read(EPOCHS_FILE) or "").count("\n") - 1)

    def running(self) -> bool:
        """Whether a process is running it."""
        directory = self.directory
        if directory is None:
            return False
        with held(directory) as free:
            return not free

    def begun(self) -> bool:
        """Whether a process has begun to run it since the sweep was started."""
        return self._changed(LOG_FILE) != self._log_before

    def plan(self) -> str:
        """What the sweep would do with it."""
        if self.skipped:
            return "skip: finished"
        if self.directory is None:
            return "run"
        if self.running():
            return "skip: another process is running it"
        status = (self.summary() or {}).get("status", "unfinished")
        return f"resume: {status} after epoch {self.epochs()} of {self.config.trainer.epochs}"

    def _is_whole(self) -> bool:
        directory = self.directory
        try:
            return directory is not None and bool(runs.read_run(directory))
        except runs.Unusable:
            return False

    def _read(self, name: str) -> str | None:
        """The text of a file of the run; None if there is none."""
        directory = self.directory
        try:
            return None if directory is None else (directory / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _changed(self, name: str) -> int | None:
        """When a file of the run was last written; None if there is none."""
        directory = self.directory
        try:
            return None if directory is None else (directory / name).stat().st_mtime_ns
        except OSError:
            return None


def find(place: Path, mark: str) -> Path | None:
    """The directory of the run with this fingerprint, if it has one."""
    return next(iter(sorted(place.glob(f"*-{mark}"))), None)


def run_directory(place: Path, label: str, config: DictConfig) -> Path:
    """The directory for the run of ``config``: the one it has, or a new one named by ``label``."""
    mark = fingerprint(config)
    name = label.replace("/", "_")[:NAME_LENGTH] or "run"
    return find(place, mark) or place / f"{name}-{mark}"
