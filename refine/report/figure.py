"""What does a run look like in a figure?

The four panels of the paper, drawn from ``metrics.csv`` alone, and two more for a stream of tasks.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from refine.records.files import written_whole
from refine.records.rows import EPOCHS_FILE, FIGURE_FILE
from refine.report.plots import COLOURS

# Okabe and Ito's colours (2008) can be told apart with every form of colour vision.
TRAIN, TEST, VALIDATION, CYCLE = "#E69F00", "#0072B2", "#009E73", "#999999"
FORGETTING, TASK = "#D55E00", "#AAAAAA"
LOW, HIGH = -4, 104  # a little beyond 0 and 100 %
TASKS_IN_LEGEND = 5  # of more tasks a colour bar shows which is which
Corner = Literal["best", "lower right"]
STYLE: dict[str, Any] = {"linewidth": 1.4, "marker": "o", "markersize": 2.5}


def draw_run(directory: Path) -> Path:
    """Draws the run in ``directory`` from its ``metrics.csv``; the path of the figure."""
    figure = four_panels(pd.read_csv(directory / EPOCHS_FILE))
    path = directory / FIGURE_FILE
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=200)
    return path


def four_panels(epochs: pd.DataFrame) -> Figure:
    """Accuracy, sparsity and training loss over epochs, and accuracy against sparsity, for the
    rows of a ``metrics.csv``; 7 inches wide, so that its text is 8 points in print.

    A stream of tasks has two more panels, 3.5 inches to the right: accuracy by task, and average
    accuracy and forgetting, over epochs.
    """
    columns = 3 if "average_accuracy" in epochs else 2
    figure = Figure(figsize=(3.5 * columns, 5), layout="constrained")
    panels = figure.subplots(2, columns)
    for axes in panels.flat:
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy, sparsity, loss, trade = panels[:, :2].flat
    # The accuracy of a stream falls from task to task into the corner that is empty without one.
    corner: Corner = "best" if columns == 3 else "lower right"
    _accuracy(accuracy, epochs, corner)
    _sparsity(sparsity, epochs)
    _loss(loss, epochs)
    _accuracy_at_sparsity(trade, epochs, corner)
    if columns == 3:
        _by_task(panels[0, 2], epochs)
        _over_tasks(panels[1, 2], epochs)
    return figure


def _accuracy(axes: Axes, epochs: pd.DataFrame, corner: Corner) -> None:
    curves = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
    for name, colour in curves.items():
        column = f"{'train' if name == 'training' else name}_accuracy"
        if column in epochs:
            axes.plot(epochs["epoch"], 100 * epochs[column], color=colour, label=name, **STYLE)
    _label(axes, "Accuracy", "epoch", "accuracy (%)")
    _mark_cycles(axes, epochs)
    axes.legend(fontsize=7.5, frameon=False, loc=corner)


def _sparsity(axes: Axes, epochs: pd.DataFrame) -> None:
    epoch, of_all = epochs["epoch"], 100 * epochs["sparsity"]
    of_prunable = 100 * epochs["prunable_sparsity"]
    steps: dict[str, Any] = {"where": "mid", "linewidth": 1.4}  # at the cycle, between two epochs
    axes.step(epoch, of_all, color=TEST, label="of all parameters", **steps)
    axes.step(epoch, of_prunable, color=TRAIN, ls="--", label="of prunable weights", **steps)
    axes.set_ylim(bottom=0, top=max(5, 1.1 * of_prunable.max()))
    _label(axes, "Sparsity", "epoch", "weights cut (%)")
    _mark_cycles(axes, epochs)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")


def _loss(axes: Axes, epochs: pd.DataFrame) -> None:
    axes.plot(epochs["epoch"], epochs["train_loss"], color=TRAIN, **STYLE)
    _label(axes, "Training loss", "epoch", "cross-entropy (nats)")
    _mark_cycles(axes, epochs)


def _accuracy_at_sparsity(axes: Axes, epochs: pd.DataFrame, corner: Corner) -> None:
    """One point for each sparsity level: the last epoch before the next cycle, as in the paper."""
    levels = epochs.groupby("cycles").last()
    every, last = (100 * rows[["sparsity", "test_accuracy"]] for rows in (epochs, levels))
    axes.plot(*every.to_numpy().T, ".", color="#BBBBBB", ms=4, label="each epoch")
    axes.plot(*last.to_numpy().T, color=TEST, label="last epoch before a cut", **STYLE)
    for x, y in last.to_numpy():
        axes.annotate(
            f"{y:.1f}",
            (x, y),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            fontsize=7,
        )
    axes.legend(fontsize=7.5, frameon=False, loc=corner)
    axes.margins(x=0.08, y=0.15)
    title = "Test accuracy against sparsity"
    _label(axes, title, "sparsity (% of all parameters)", "accuracy (%)")


def _of_tasks(cell: str) -> list[float]:
    """The accuracies in a cell of ``task_accuracies``; ValueError if it holds none."""
    found = json.loads(cell)
    if not isinstance(found, list) or not found or not all(isinstance(a, float) for a in found):
        raise ValueError(f"task_accuracies holds {cell!r:.40}, no list of accuracies")
    return found


def _by_task(axes: Axes, epochs: pd.DataFrame) -> None:
    """Accuracy over epochs, a line for each task from the first epoch that tested it."""
    _mark_tasks(axes, epochs, LOW, HIGH)
    tested = [_of_tasks(accuracies) for accuracies in epochs["task_accuracies"]]
    count = max(map(len, tested))
    colours: Sequence[str | tuple[float, ...]] = COLOURS[:count]
    if count > TASKS_IN_LEGEND:  # without the end of the colour map that is too light for paper
        colours = [colormaps["viridis"](0.93 * task / (count - 1)) for task in range(count)]
    for task, colour in enumerate(colours):
        seen = [
            (row, 100 * of[task])
            for row, of in zip(epochs["epoch"], tested, strict=True)
            if task < len(of)
        ]
        axes.plot(*zip(*seen, strict=True), color=colour, label=f"{task + 1}", **STYLE)
    _label(axes, "Accuracy by task", "epoch", "test accuracy (%)")
    if count > TASKS_IN_LEGEND:
        axes.set_ylim(LOW, HIGH)
        limits = [number + 0.5 for number in range(count + 1)]
        scale = ScalarMappable(BoundaryNorm(limits, count), ListedColormap(list(colours)))
        ticks = MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10])
        bar = axes.figure.colorbar(scale, ax=axes, ticks=ticks, pad=0.02)
        bar.ax.tick_params(labelsize=8)
        bar.ax.minorticks_off()
        bar.set_label("task", fontsize=8)
    else:
        _legend_above(axes, LOW, HIGH, title="task", ncols=count)


def _over_tasks(axes: Axes, epochs: pd.DataFrame) -> None:
    """Average accuracy and forgetting of the tasks so far, over epochs."""
    average, forgotten = 100 * epochs["average_accuracy"], 100 * epochs["forgetting"]
    axes.plot(epochs["epoch"], average, color=TEST, label="average accuracy", **STYLE)
    axes.plot(epochs["epoch"], forgotten, color=FORGETTING, label="forgetting", **STYLE)
    low = LOW + min(0, forgotten.min())  # tasks can also get better
    _mark_tasks(axes, epochs, low, HIGH, "next task")
    _label(axes, "Average accuracy and forgetting", "epoch", "of the tasks so far (%)")
    _legend_above(axes, low, HIGH, ncols=2)


def _legend_above(axes: Axes, low: float, high: float, **options: Any) -> None:
    """A legend that covers nothing: above the greatest possible value."""
    ticks = [tick for tick in range(-100, 101, 20) if low <= tick <= high]
    axes.set_yticks(ticks)
    axes.set_ylim(low, high + 0.28 * (high - low))
    axes.legend(
        loc="upper center",
        fontsize=7.5,
        title_fontsize=7.5,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.5,
        **options,
    )


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)


def _mark_cycles(axes: Axes, epochs: pd.DataFrame) -> None:
    """A dotted line for each cycle, before the first epoch that counts it."""
    counted = epochs["cycles"].diff().fillna(epochs["cycles"]) > 0
    for number, position in enumerate((epochs["epoch"][counted] - 0.5).tolist()):
        label = "refinement cycle" if number == 0 else None
        axes.axvline(position, color=CYCLE, ls=":", linewidth=1, label=label, zorder=0)


def _mark_tasks(axes: Axes, epochs: pd.DataFrame, low: float, high: float, label: str = "") -> None:
    """A thin line wherever one task ended and the next began."""
    begins = epochs["epoch"][epochs["task"].diff() > 0] - 0.5
    if len(begins):
        axes.vlines(begins, low, high, colors=TASK, linewidth=0.5, label=label, zorder=0)
