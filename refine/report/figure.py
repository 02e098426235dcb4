"""What did a run look like? The four panels of the paper, drawn from ``metrics.csv`` alone, and two
more where it learned one task after the other."""

import json
from pathlib import Path

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

# Okabe and Ito's colours (2008) keep apart for every kind of colour vision.
TRAIN, TEST, VALIDATION, CYCLE = "#E69F00", "#0072B2", "#009E73", "#999999"
FORGETTING, TASK = "#D55E00", "#AAAAAA"
LOW, HIGH = -4, 104  # a little more than a percentage can be
TASKS_IN_LEGEND = 5  # more are told apart by a colour bar
STYLE = {"linewidth": 1.4, "marker": "o", "markersize": 2.5}


def draw_run(directory: Path) -> Path:
    """Draws ``refinement.png`` of the run in ``directory`` from its ``metrics.csv``; its path."""
    figure = four_panels(pd.read_csv(directory / EPOCHS_FILE))
    path = directory / FIGURE_FILE
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=200)
    return path


def four_panels(epochs: pd.DataFrame) -> Figure:
    """Accuracy, sparsity and training loss over epochs, and accuracy against sparsity, for the
    rows of a ``metrics.csv``; 7 inches wide, so that its text is 8 points in print.

    Those of a stream of tasks bring two more, 3.5 inches to the right: accuracy by task, and
    average accuracy and forgetting, over epochs.
    """
    columns = 3 if "average_accuracy" in epochs else 2
    figure = Figure(figsize=(3.5 * columns, 5), layout="constrained")
    panels = figure.subplots(2, columns)
    accuracy, sparsity, loss, trade = panels[:, :2].flat
    # The accuracy of a stream falls from task to task into the corner where it ends without one.
    corner = "best" if columns == 3 else "lower right"
    for axes in panels.flat:
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    epoch = epochs["epoch"]
    # A cycle came after the epoch before the one whose row counts it for the first time.
    cycles = (epoch[epochs["cycles"].diff().fillna(epochs["cycles"]) > 0] - 0.5).tolist()

    curves = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
    for name, colour in curves.items():
        column = f"{'train' if name == 'training' else name}_accuracy"
        if column in epochs:
            accuracy.plot(epoch, 100 * epochs[column], color=colour, label=name, **STYLE)
    _label(accuracy, "Accuracy", "epoch", "accuracy (%)")
    _mark(accuracy, cycles)
    accuracy.legend(fontsize=7.5, frameon=False, loc=corner)

    steps = {"where": "mid", "linewidth": 1.4}  # where the cycle was, between two epochs
    sparsity.step(epoch, 100 * epochs["sparsity"], color=TEST, label="of all parameters", **steps)
    prunable = 100 * epochs["prunable_sparsity"]
    sparsity.step(epoch, prunable, color=TRAIN, ls="--", label="of prunable weights", **steps)
    sparsity.set_ylim(bottom=0, top=max(5, 1.1 * prunable.max()))
    _label(sparsity, "Sparsity", "epoch", "weights cut (%)")
    _mark(sparsity, cycles)
    sparsity.legend(fontsize=7.5, frameon=False, loc="upper left")

    loss.plot(epoch, epochs["train_loss"], color=TRAIN, **STYLE)
    _label(loss, "Training loss", "epoch", "cross-entropy (nats)")
    _mark(loss, cycles)

    # One point a sparsity level: the last epoch before the next cycle, as the paper reads it.
    levels = epochs.groupby("cycles").last()
    every, last = (100 * rows[["sparsity", "test_accuracy"]] for rows in (epochs, levels))
    trade.plot(*every.to_numpy().T, ".", color="#BBBBBB", ms=4, label="each epoch")
    trade.plot(*last.to_numpy().T, color=TEST, label="last epoch before a cut", **STYLE)
    for point in last.to_numpy():
        trade.annotate(
            f"{point[1]:.1f}",
            point,
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            fontsize=7,
        )
    trade.legend(fontsize=7.5, frameon=False, loc=corner)
    trade.margins(x=0.08, y=0.15)
    _label(
        trade, "Test accuracy against sparsity", "sparsity (% of all parameters)", "accuracy (%)"
    )
    if columns == 3:
        _by_task(panels[0, 2], epochs)
        _over_tasks(panels[1, 2], epochs)
    return figure


def _by_task(axes: Axes, epochs: pd.DataFrame) -> None:
    """A line for each task, from the first epoch that tested it."""
    _mark_tasks(axes, epochs, LOW, HIGH)
    tested = [json.loads(accuracies) for accuracies in epochs["task_accuracies"]]
    count = max(map(len, tested))
    colours = COLOURS[:count]
    if count > TASKS_IN_LEGEND:  # without the end of the colour map that is lost on white paper
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
        scale = ScalarMappable(BoundaryNorm(limits, count), ListedColormap(colours))
        ticks = MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10])
        bar = axes.figure.colorbar(scale, ax=axes, ticks=ticks, pad=0.02)
        bar.ax.tick_params(labelsize=8)
        bar.ax.minorticks_off()
        bar.set_label("task", fontsize=8)
    else:
        _legend_above(axes, LOW, HIGH, title="task", ncols=count)


def _over_tasks(axes: Axes, epochs: pd.DataFrame) -> None:
    """Average accuracy and forgetting of the tasks seen so far."""
    average, forgotten = 100 * epochs["average_accuracy"], 100 * epochs["forgetting"]
    axes.plot(epochs["epoch"], average, color=TEST, label="average accuracy", **STYLE)
    axes.plot(epochs["epoch"], forgotten, color=FORGETTING, label="forgetting", **STYLE)
    low = LOW + min(0, forgotten.min())  # tasks can also get better
    _mark_tasks(axes, epochs, low, HIGH, "next task")
    _label(axes, "Average accuracy and forgetting", "epoch", "of the tasks so far (%)")
    _legend_above(axes, low, HIGH, ncols=2)


def _legend_above(axes: Axes, low: float, high: float, **options) -> None:
    """A legend that nothing can run into: above the greatest value that there can be."""
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


def _mark(axes: Axes, cycles: list[float]) -> None:
    for number, position in enumerate(cycles):
        label = "refinement cycle" if number == 0 else None
        axes.axvline(position, color=CYCLE, ls=":", linewidth=1, label=label, zorder=0)


def _mark_tasks(
    axes: Axes, epochs: pd.DataFrame, low: float, high: float, label: str | None = None
) -> None:
    """A thin line wherever one task ended and the next began."""
    begins = epochs["epoch"][epochs["task"].diff() > 0] - 0.5
    if len(begins):
        axes.vlines(begins, low, high, colors=TASK, linewidth=0.5, label=label, zorder=0)
