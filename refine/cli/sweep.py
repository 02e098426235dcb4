"""How is a sweep checked, shown while it runs, and reported at its end?"""

import hashlib
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from refine.cli.job import NAME_LENGTH, Job
from refine.cli.overrides import given
from refine.errors import ReportError, SettingError
from refine.plain import counted, plain
from refine.records.files import write_text
from refine.records.rows import CONFIG_FILE
from refine.report import ends, groups, runs, tables
from refine.report.remaining import spoken
from refine.report.terminal import bar
from refine.setting import APART, path_of, within

SECONDS = 0.5  # between looks at the directories


def directory(asked: Namespace, names: list[str], shared: list[str]) -> Path:
    """Where a sweep's runs are: the same directory, whichever values the varied settings have."""
    chosen = given(asked.overrides, "hydra.sweep.dir") or given(asked.overrides, "output_dir")
    if chosen is not None and not chosen.strip():
        raise SettingError("output_dir", "is empty; name a directory, or leave it out")
    if chosen and "${" in chosen:
        raise SettingError("output_dir", f"{chosen}: a sweep has one directory, without ${{...}}")
    if chosen:
        return path_of("output_dir", chosen).absolute()
    shared = [entry for entry in shared if not within(entry.partition("=")[0], APART)]
    text = "\n".join([asked.config_path or "", *sorted(names), *sorted(shared)])
    name = ",".join(name.replace("/", "_") for name in sorted(names))[:NAME_LENGTH] or "one-run"
    mark = hashlib.sha256(text.encode()).hexdigest()[:6]
    return Path(f"results/sweeps/{name}-{mark}").absolute()


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
                f"{other.name} and {job.name} are the same run ({', '.join(APART)} make no other "
                "run); give each a sweep with an output_dir of its own",
            )


def show_plan(jobs: list[Job], console: Console) -> None:
    """Prints the jobs, and what would be done with each."""
    table = Table("job", "what", title=f"{len(jobs)} jobs in {jobs[0].place}", title_justify="left")
    for job in jobs:
        table.add_row(plain(job.name), plain(job.plan()))
    console.print(table)


class Watch:
    """A context that shows a sweep while it runs: a bar on a terminal, and a line for each run as
    soon as it ends. It only reads files, in a thread of its own."""

    def __init__(self, jobs: list[Job], console: Console):
        self.jobs, self.console = jobs, console
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_repeatedly, daemon=True)
        self._bar: Progress | None = None
        self._first: float | None = None  # when the first run was seen to have begun
        self._total = sum(job.config.trainer.epochs for job in jobs)
        self._head_start = 0

    def __enter__(self) -> "Watch":
        skipped = [job for job in self.jobs if job.skipped]
        for job in skipped:
            job.reported = True
        self._head_start = self._epochs()
        note = f", {len(skipped)} of them finished before" if skipped else ""
        self.console.print(f"{counted(len(self.jobs), 'run')} in {self.jobs[0].place}{note}")
        if self.console.is_terminal:
            columns = (TextColumn("sweep"), bar(20), TextColumn("{task.description}"))
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

    def _look_repeatedly(self) -> None:
        while not self._over.wait(SECONDS):
            self._look()

    def _look(self) -> None:
        for job in self.jobs:
            if not job.reported and (summary := job.outcome()):
                job.reported = True
                self._show_end(job, summary)
        if self._bar:
            done = self._epochs()
            self._bar.update(self._task, completed=done, description=self._state(done))

    def _show_end(self, job: Job, summary: dict[str, Any]) -> None:
        count = f"{sum(each.reported for each in self.jobs)} of {len(self.jobs)}"
        if summary["status"] == "finished":
            what = (
                f"test {summary['test_accuracy']:.2%} at {summary['sparsity']:.1%} sparsity "
                f"({summary['seconds']:.1f} s)"
            )
        else:
            what = f"{summary['status'].upper()}: {summary.get('reason')}"
        self.console.print(plain(f"{count}  {job.name}: {what}"), markup=False, highlight=False)

    def _epochs(self) -> int:
        return sum(job.config.trainer.epochs if job.reported else job.epochs() for job in self.jobs)

    def _state(self, done: int) -> str:
        ended = [job for job in self.jobs if job.reported]
        failed = sum(not job.finished() for job in ended)
        running = sum(job.begun() for job in self.jobs if not job.reported)
        if not running and len(ended) == sum(job.skipped for job in self.jobs):
            return "loading PyTorch"
        self._first = self._first or time.monotonic()
        text = f"{len(ended) - failed} of {len(self.jobs)} done, {running} running, {failed} failed"
        new = done - self._head_start
        if new > 0:
            left = (self._total - done) * (time.monotonic() - self._first) / new
            text += f", {spoken(left)}"
        return text


def report(jobs: list[Job], console: Console, write: Callable[[str], None]) -> int:
    """Reports on the finished runs and lists the others; the exit code: 0 if all have finished, or
    else 1."""
    place = jobs[0].place
    directories = [job.directory for job in jobs if job.finished()]
    finished, broken = runs.read([path for path in directories if path is not None])
    if finished:
        grouping = groups.group(finished)
        write(tables.written(ends.of_ends(grouping), "table"))
        table = tables.of_groups(grouping)
        write_text(place / "report.csv", tables.written(table, "csv"))
        picture = _draw(grouping, jobs)
        console.print(f"report  {place / 'report.csv'}\nfigure  {picture}")
    rest = [job for job in jobs if not job.finished() or job.directory in broken]
    if rest:
        _list_rest(rest, broken, console)
    return 1 if rest else 0


def _list_rest(rest: list[Job], broken: dict[Path, str], console: Console) -> None:
    counts = Counter("failed" if job.outcome() else "unfinished" for job in rest)
    heading = ", ".join(f"{count} {what}" for what, count in counts.items())
    table = Table("job", "what happened", title=heading, title_justify="left")
    for job in rest:
        summary = job.outcome() or {}
        running = "running in another process" if job.running() else "unfinished"
        damage = broken.get(job.directory) if job.directory else None
        what = damage or summary.get("reason") or running
        table.add_row(plain(job.name), plain(what))
    console.print(table)
    console.print("The same command resumes these; each run.log says in full what happened.")


def _draw(grouping: groups.Grouping, jobs: list[Job]) -> Path:
    from refine.report import plots  # only here: matplotlib takes long to import
    from refine.report.grid import grid, swept
    from refine.report.style import save_all

    lost = [job.directory for job in jobs if job.directory and not job.finished()]
    try:
        name, figure = "grid", grid(grouping, *swept(grouping, None), lost)
    except ReportError:  # not two settings
        name, figure = "pareto", plots.pareto(grouping)
    path = jobs[0].place / f"{name}.png"
    save_all(figure, path, jobs[0].config.figure_formats)
    return path
