"""How is a run shown on a terminal, and in its log?

On a terminal there are bars for the run and the epoch, with a line above them for each cycle.
Elsewhere there is a line for each epoch and each cycle. ``run.log`` gets these lines in both cases.
"""

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from refine.records.rows import CycleRow, EpochRow
from refine.report import lines
from refine.report.display import Display
from refine.report.remaining import Ahead, Remaining, spoken

log = logging.getLogger("refine")
epoch_log = logging.getLogger("refine.epochs")


def bar(width: int) -> BarColumn:
    """A bar that can be read on dark and light backgrounds."""
    return BarColumn(width, "bright_black", "green", "green", "green")


class LogOnly(Display):
    """Shows nothing, for runs side by side; ``run.log`` gets its lines all the same."""

    def __init__(self) -> None:
        self._epochs = 0
        nothing = logging.NullHandler()  # without a handler, Python writes warnings to stderr
        _show_log_by(nothing)

    def place(self, directory: Path) -> None:
        """The run is written to ``directory``."""
        log.info("results in %s", directory)

    def begin(self, headline: str, ahead: Ahead) -> None:
        """Training starts."""
        log.info("%s", headline)
        self._epochs = ahead.epochs

    def show(self, row: EpochRow | CycleRow) -> None:
        """A row was recorded."""
        log.info("%s", lines.line(row, self._epochs))


class Terminal(Display):
    """Shows one run after another on ``console``: each begins, takes steps, shows rows, ends."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True, markup=False)
        self._progress: Progress | None = None
        self._epochs, self._done = 0, 0
        handler: logging.Handler
        if self.console.is_terminal:
            # Sharing the bars' console lets lines scroll by above them.
            handler = RichHandler(
                console=self.console, show_path=False, show_time=False, show_level=False,
                highlighter=NullHighlighter(),
            )  # fmt: skip
            handler.addFilter(lambda record: record.name != epoch_log.name)
        else:
            handler = logging.StreamHandler(self.console.file)
            handler.setFormatter(logging.Formatter("%(message)s"))
        handler.setLevel(logging.INFO)
        log.setLevel(logging.INFO)
        _show_log_by(handler)

    def place(self, directory: Path) -> None:
        """The run is written to ``directory``."""
        log.info("results in %s", directory)

    def begin(self, headline: str, ahead: Ahead) -> None:
        """Training starts."""
        log.info("%s", headline)
        self._epochs, self._done = ahead.epochs, ahead.done
        self._left = Remaining(ahead)
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                bar(16),  # so that all columns fit into 80 characters
                TextColumn("{task.fields[count]}"),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                transient=True,
            )
            add, whole = self._progress.add_task, ahead.epochs
            self._run_bar = add("run", total=whole, count=f"{ahead.done}/{whole}", figures="")
            self._epoch_bar = add("epoch", total=None, count="", figures="")
            self._progress.start()

    def step(self, step: int, steps: int) -> None:
        """Training is at ``step`` of the epoch's ``steps``."""
        self._left.step(step, steps)
        if self._progress:
            self._below("epoch", step, steps, "")
            done = self._done + 0.999 * step / steps
            self._progress.update(self._run_bar, completed=done, count=self._count())

    def phase(self, cycle: int, step: str, done: int, of: int) -> None:
        """A cycle, or the measurement of an epoch, is at a step."""
        if self._progress:
            self._below("cycle" if cycle else "epoch", done, of, lines.phase(cycle, step))

    def show(self, row: EpochRow | CycleRow) -> None:
        """A row was recorded."""
        text = lines.line(row, self._epochs)
        if isinstance(row, CycleRow):
            self._left.cycle()
            log.info("%s", text)
            test = row.test_accuracy_after_replay
        else:
            self._left.epoch()
            epoch_log.info("%s", text)
            test, self._done = row.test_accuracy, row.epoch
        if self._progress:
            figures = "" if test is None else f"test {test:.1%}  "
            figures += f"sparsity {row.sparsity:.1%}"
            update, bar = self._progress.update, self._run_bar
            update(bar, completed=self._done, count=self._count(), figures=figures)

    def say(self, text: str) -> None:
        """Says something at once, above the bars."""
        self.console.print(text)

    def end(self, summary: dict[str, Any], directory: Path) -> None:
        """The run is over: what was gained, where the files are, and what can be done next."""
        self.close()
        table = Table(show_header=False, title=f"Run {summary['status']}", title_justify="left")
        for name, value in lines.gains(summary).items():
            table.add_row(name, value)
        self.console.print(table)
        for line in lines.files(directory):
            self.console.print(line)
        if commands := lines.next_commands(summary, directory):
            self.console.print("next")
        for command in commands:
            self.console.print(f"  {command}")

    def close(self) -> None:
        """Takes the bars off the screen."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _count(self) -> str:
        left = spoken(self._left.seconds())
        return f"{self._done}/{self._epochs}" + (f"  {left}" if left else "")

    def _below(self, name: str, done: int, of: int, figures: str) -> None:
        """Sets the lower bar; ``of`` 0: it only moves."""
        assert self._progress is not None
        count = f"{done}/{of}" if of else ""
        self._progress.update(
            self._epoch_bar, description=name, total=of or None, completed=done, count=count,
            figures=figures,
        )  # fmt: skip
        if not of:
            self._progress.tasks[self._epoch_bar].total = None


def _show_log_by(handler: logging.Handler) -> None:
    handler.name = "terminal"
    log.propagate = False
    log.handlers = [other for other in log.handlers if other.name != handler.name]
    log.addHandler(handler)
