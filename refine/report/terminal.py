"""How is a run shown on a terminal, and in its log?

On a terminal there are bars for the run and the epoch, with a line above them for each cycle.
Elsewhere there is a line for each epoch and each cycle. ``run.log`` gets these lines in both cases.
"""

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from refine.records.rows import EPOCHS_FILE, FIGURE_FILE, CycleRow, EpochRow

log = logging.getLogger("refine")
epoch_log = logging.getLogger("refine.epochs")


def line(row: EpochRow | CycleRow, epochs: int) -> str:
    """A row as one line of text."""
    if isinstance(row, CycleRow):
        seconds = row.importance_seconds + row.downscale_seconds + row.cut_seconds
        grown = f", grew {row.grown_weights:,}" if row.grown_weights else ""
        text = (
            f"cycle {row.cycle} after epoch {row.epoch}: cut {row.cut_weights:,} weights{grown}, "
            f"sparsity {row.sparsity:.1%}"
        )
        if row.macs is not None:
            text += f", {row.channels:,} channels and {row.macs / 1e6:,.2f} M MACs are left"
        if row.test_accuracy_before is not None:
            before, after_cut = row.test_accuracy_before, row.test_accuracy_after_cut
            text += f", test {before:.2%} -> cut {after_cut:.2%}"
            if row.replay_steps:
                text += (
                    f" -> replayed {row.test_accuracy_after_replay:.2%} ({row.replay_steps} steps)"
                )
            elif row.grown_weights:
                text += f" -> grown {row.test_accuracy_after_replay:.2%}"
        return f"{text} ({seconds + row.replay_seconds + row.regrowth_seconds:.1f} s)"
    held_out = ""
    if row.validation_accuracy is not None:
        held_out = f"  validation {row.validation_accuracy:7.2%}"
    stream = ""
    if row.task is not None:
        stream = f"  task {row.task}, forgetting {row.forgetting:.2%}"
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.train_loss:.4f}  "
        f"train {row.train_accuracy:7.2%}{held_out}  test {row.test_accuracy:7.2%}{stream}  "
        f"sparsity {row.sparsity:6.1%}  lr {row.learning_rate:.2g}  {row.epoch_seconds:.1f} s"
    )


class LogOnly:
    """Shows nothing, for runs side by side; ``run.log`` gets its lines all the same."""

    def __init__(self) -> None:
        self._epochs = 0
        log.propagate = False
        log.handlers = [handler for handler in log.handlers if handler.name != "terminal"]
        nothing = logging.NullHandler()  # without a handler, Python writes warnings to stderr
        nothing.name = "terminal"
        log.addHandler(nothing)

    def begin(self, headline: str, epochs: int) -> None:
        """A run of ``epochs`` epochs starts."""
        log.info("%s", headline)
        self._epochs = epochs

    def step(self, step: int, steps: int) -> None:
        """Training is at ``step`` of the epoch's ``steps``."""

    def show(self, row: EpochRow | CycleRow) -> None:
        """A row was recorded."""
        log.info("%s", line(row, self._epochs))

    def end(self, summary: dict[str, Any], directory: Path) -> None:
        """The run is over."""


class Terminal:
    """Shows one run after another on ``console``: each begins, takes steps, shows rows, ends."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True, markup=False)
        self._progress: Progress | None = None
        self._epochs, self._done = 0, 0
        log.setLevel(logging.INFO)
        log.propagate = False
        log.handlers = [handler for handler in log.handlers if handler.name != "terminal"]
        handler: logging.Handler
        if self.console.is_terminal:
            # Sharing the bars' console lets lines scroll by above them.
            handler = RichHandler(console=self.console, show_path=False, show_time=False)
            handler.addFilter(lambda record: record.name != epoch_log.name)
        else:
            handler = logging.StreamHandler(self.console.file)
            handler.setFormatter(logging.Formatter("%(message)s"))
        handler.name = "terminal"
        handler.setLevel(logging.INFO)
        log.addHandler(handler)

    def begin(self, headline: str, epochs: int) -> None:
        """A run of ``epochs`` epochs starts."""
        log.info("%s", headline)
        self._epochs, self._done = epochs, 0
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(16),  # so that all columns fit into 80 characters
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                transient=True,
            )
            self._run_bar = self._progress.add_task("run  ", total=epochs, figures="")
            self._epoch_bar = self._progress.add_task("epoch", total=None, figures="")
            self._progress.start()

    def step(self, step: int, steps: int) -> None:
        """Training is at ``step`` of the epoch's ``steps``."""
        if self._progress:
            if step == 1:
                self._progress.reset(self._epoch_bar, total=steps)
            self._progress.update(self._epoch_bar, completed=step)
            self._progress.update(self._run_bar, completed=self._done + 0.999 * step / steps)

    def show(self, row: EpochRow | CycleRow) -> None:
        """A row was recorded."""
        text = line(row, self._epochs)
        if isinstance(row, CycleRow):
            log.info("%s", text)
            return
        epoch_log.info("%s", text)
        if self._progress:
            figures = f"loss {row.train_loss:.3f}  test {row.test_accuracy:.1%}"
            figures += f"  sparsity {row.sparsity:.1%}"
            self._progress.update(self._run_bar, completed=row.epoch, figures=figures)
        self._done = row.epoch

    def end(self, summary: dict[str, Any], directory: Path) -> None:
        """The run is over: a table of what was gained, and where the files are."""
        self.close()
        table = Table(show_header=False, title=f"Run {summary['status']}", title_justify="left")
        active, total = summary["active_parameters"], summary["total_parameters"]
        share = summary["prunable_sparsity"]
        forgotten = {}
        if "forgetting" in summary:
            forgotten = {
                "forgetting": f"{summary['forgetting']:.2%} of the earlier tasks, on average"
            }
        for name, value in {
            "test accuracy": f"{summary['test_accuracy']:.2%}",
            **forgotten,
            "sparsity": f"{summary['sparsity']:.1%} of all, {share:.1%} of the prunable weights",
            "parameters": f"{active:,} active of {total:,}",
            "compression": f"{summary['compression']:.2f}x, counting active parameters",
            **_channels_and_stages(summary),
            "time": f"{summary['seconds']:.1f} s, {summary['cycles']} refinement cycles",
        }.items():
            table.add_row(name, value)
        self.console.print(table)
        self.console.print(f"CSV     {directory / EPOCHS_FILE}")
        self.console.print(f"figure  {directory / FIGURE_FILE}")

    def close(self) -> None:
        """Takes the bars off the screen."""
        if self._progress:
            self._progress.stop()
            self._progress = None


def _channels_and_stages(summary: dict[str, Any]) -> dict[str, str]:
    """Rows of the table for a run that cut channels, and for the stages of sparse training."""
    found = {}
    if "macs" in summary:
        found["MACs"] = (
            f"{summary['macs']:,} of {summary['dense_macs']:,} an image, "
            f"{summary['speedup']:.2f}x fewer"
        )
    for entry in summary.get("stages", ()):
        found[entry["stage"]] = f"{entry['test_accuracy']:.2%} after epoch {entry['epoch']}"
    return found
