"""What did a run look like? The four panels of the paper, drawn from ``metrics.csv`` alone."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from refine.files import written_whole
from refine.rows import EPOCHS_FILE, FIGURE_FILE

# Okabe and Ito's colours (2008) keep apart for every kind of colour vision.
TRAIN, TEST, VALIDATION, CYCLE = "#E69F00", "#0072B2", "#009E73", "#999999"
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
    rows of a ``metrics.csv``; 7 inches wide, so that its text is 8 points in print."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    accuracy, sparsity, loss, trade = figure.subplots(2, 2).flat
    for axes in (accuracy, sparsity, loss, trade):
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
    accuracy.legend(fontsize=7.5, frameon=False, loc="lower right")

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
    trade.legend(fontsize=7.5, frameon=False, loc="lower right")
    trade.margins(x=0.08, y=0.15)
    _label(
        trade, "Test accuracy against sparsity", "sparsity (% of all parameters)", "accuracy (%)"
    )
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)


def _mark(axes: Axes, cycles: list[float]) -> None:
    for number, position in enumerate(cycles):
        label = "refinement cycle" if number == 0 else None
        axes.axvline(position, color=CYCLE, ls=":", linewidth=1, label=label, zorder=0)
