"""Which runs does a sweep consist of, how far is each, and what came of them?

Everything is read from the runs' directories: who runs them, in which process and on which machine,
makes no difference.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from refine.config import fingerprint
from refine.config.fingerprint import APART
from refine.errors import ReportError, SettingError
from refine.records.files import write_text
from refine.records.rows import CONFIG_FILE, EPOCHS_FILE, LOCK_FILE, LOG_FILE, SUMMARY_FILE
from refine.report import groups, runs, tables

NAME_LENGTH = 120  # of a directory; file systems end at 255 bytes
SECONDS = 0.5  # between looks at the directories


@dataclass
class Job:
    """One run of a sweep. ``name``: what sets it apart; ``before``: how it was when the sweep was
    started."""

    name: str
    config: DictConfig
    place: Path
    before: dict[str, Any] | None = field(init=False)
    told: bool = False

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.config)
        self.before = self.summary()
        self._sound = self._readable()
        self._seen, self._log_seen = self._changed(SUMMARY_FILE), self._changed(LOG_FILE)

    @property
    def directory(self) -> Path | None:
        return find(self.place, self.fingerprint)

    def summary(self) -> dict[str, Any] | None:
        """How the run ended, as it says itself; None if it has not."""
        directory = self.directory
        try:
            return json.loads((directory / SUMMARY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None

    def finished(self) -> bool:
        return (self.summary() or {}).get("status") == "finished"

    def ended(self) -> dict[str, Any] | None:
        """The summary, if it is one of this sweep, or that of a run which was finished before."""
        summary = self.summary()
        old = self._changed(SUMMARY_FILE) == self._seen
        return None if old and not self.skipped() else summary

    def skipped(self) -> bool:
        """Whether it was finished, and whole, when the sweep was started."""
        return self._sound

    def _readable(self) -> bool:
        try:
            return bool(self.directory and runs.read_run(self.directory))
        except runs.Unusable:
            return False

    def epochs(self) -> int:
        """How many epochs are measured so far."""
        try:
            text = (self.directory / EPOCHS_FILE).read_text(encoding="utf-8")
        except (OSError, TypeError):
            return 0
        return max(0, text.count("\n") - 1)

    def running(self) -> bool:
        """Whether a process is at it."""
        if self.directory is None:
            return False
        lock = FileLock(self.directory / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        lock.release()
        return False

    def plan(self) -> str:
        """What would be done with it."""
        if self.skipped():
            return "skip: finished"
        if self.directory is None:
            return "run"
        if self.running():
            return "skip: another process is at it"
        status = (self.before or {}).get("status", "unfinished")
        return f"resume: {status} after epoch {self.epochs()} of {self.config.trainer.epochs}"

    def begun(self) -> bool:
        """Whether a process has been at it since the sweep was started."""
        return self._changed(LOG_FILE) != self._log_seen

    def _changed(self, name: str) -> int | None:
        try:
            return (self.directory / name).stat().st_mtime_ns
        except (OSError, TypeError):
            return None


def find(place: Path, mark: str) -> Path | None:
    """The directory of the run with this fingerprint, if it has one."""
    return next(iter(sorted(place.glob(f"*-{mark}"))), None)


def directory(place: Path, label: str, config: DictConfig) -> Path:
    """Where the run of ``config`` belongs: where it is, or a new directory named by ``label``."""
    mark = fingerprint(config)
    name = label.replace("/", "_")[:NAME_LENGTH] or "run"
    return find(place, mark) or place / f"{name}-{mark}"


def check(jobs: list[Job], place: Path) -> None:
    """SettingError if there is no job, or two are the same run, or ``place`` is taken."""
    if (place / CONFIG_FILE).exists() or place.is_file():
        what = "is a file" if place.is_file() else "holds a run"
        raise SettingError("output_dir", f"{place} {what}; a sweep needs a directory of its own")
    if not jobs:
        raise SettingError("refine-run -m", "there is nothing to run: a setting has no value")
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.fingerprint, job)
        if other is not job:
            raise SettingError(
                "refine-run -m",
                f"{other.name} and {job.name} are one run twice ({', '.join(APART)} make no other "
                "run); sweep over them with an output_dir each",
            )


def show_plan(jobs: list[Job], console: Console) -> None:
    """The jobs, and what would be done with each."""
    table = Table("job", "what", title=f"{len(jobs)} jobs in {jobs[0].place}", title_justify="left")
    for job in jobs:
        table.add_row(job.name, job.plan())
    console.print(table)


class Watch:
    """A context that shows how a sweep goes on: a bar on a terminal, and a line for each run that
    ends, at once if it has failed. It only looks at files, from a thread of its own."""

    def __init__(self, jobs: list[Job], console: Console):
        self.jobs, self.console = jobs, console
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._bar: Progress | None = None
        self._started = time.monotonic()
        self._total = sum(job.config.trainer.epochs for job in jobs)
        self._head_start = 0

    def __enter__(self) -> "Watch":
        skipped = [job for job in self.jobs if job.skipped()]
        for job in skipped:
            job.told = True
        self._head_start = self._epochs()
        note = f", {len(skipped)} of them finished before" if skipped else ""
        self.console.print(f"{len(self.jobs)} runs in {self.jobs[0].place}{note}")
        if self.console.is_terminal:
            columns = (TextColumn("sweep"), BarColumn(20), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        if self._bar:
            self._bar.stop()

    def _look_on(self) -> None:
        while not self._over.wait(SECONDS):
            self._look()

    def _look(self) -> None:
        for job in self.jobs:
            if not job.told and (summary := job.ended()):
                job.told = True
                self._tell(job, summary)
        if self._bar:
            done = self._epochs()
            self._bar.update(self._task, completed=done, description=self._state(done))

    def _tell(self, job: Job, summary: dict[str, Any]) -> None:
        count = f"{sum(each.told for each in self.jobs)} of {len(self.jobs)}"
        if summary["status"] == "finished":
            what = (
                f"test {summary['test_accuracy']:.2%} at {summary['sparsity']:.1%} sparsity "
                f"({summary['seconds']:.1f} s)"
            )
        else:
            what = f"{summary['status'].upper()}: {summary.get('reason')}"
        self.console.print(f"{count}  {job.name}: {what}", markup=False, highlight=False)

    def _epochs(self) -> int:
        return sum(job.config.trainer.epochs if job.told else job.epochs() for job in self.jobs)

    def _state(self, done: int) -> str:
        told = [job for job in self.jobs if job.told]
        failed = sum(not job.finished() for job in told)
        running = sum(job.begun() for job in self.jobs if not job.told)
        text = f"{len(told) - failed} of {len(self.jobs)} done, {running} running, {failed} failed"
        new = done - self._head_start
        if new > 0:
            left = (self._total - done) * (time.monotonic() - self._started) / new
            text += f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"
        return text


def close(jobs: list[Job], console: Console, write: Callable[[str], None]) -> int:
    """Reports on what is finished, names what is not, and says whether the sweep is complete: the
    exit code, 0 or 1."""
    place = jobs[0].place
    finished, broken = runs.read([job.directory for job in jobs if job.finished()])
    if finished:
        grouping = groups.group(finished)
        table = tables.of_groups(grouping)
        write(tables.written(table, "table"))
        write_text(place / "report.csv", tables.written(table, "csv"))
        picture = _draw(grouping, place)
        console.print(f"report  {place / 'report.csv'}\nfigure  {picture}")
    rest = [job for job in jobs if not job.finished() or job.directory in broken]
    if rest:
        counts = Counter("failed" if job.ended() else "unfinished" for job in rest)
        heading = ", ".join(f"{count} {what}" for what, count in counts.items())
        table = Table("job", "what happened", title=heading, title_justify="left")
        for job in rest:
            summary = job.ended() or {}
            running = "running in another process" if job.running() else "unfinished"
            reason = broken.get(job.directory) or summary.get("reason") or running
            table.add_row(job.name, str(reason))
        console.print(table)
        console.print("The same command goes on with these; each run.log has the whole story.")
    return 1 if rest else 0


def _draw(grouping: groups.Grouping, place: Path) -> Path:
    from refine.report import plots  # only now: matplotlib takes its time

    try:
        name, figure = "grid", plots.grid(grouping, *plots.swept(grouping, None))
    except ReportError:  # not two settings
        name, figure = "pareto", plots.pareto(grouping)
    plots.save(figure, place / f"{name}.png")
    return place / f"{name}.png"
