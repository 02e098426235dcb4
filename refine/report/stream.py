"""What did a run remember of each task of a stream, and what did it forget?"""

import json
from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import MaxNLocator

from refine.report.style import COLOURS, SMALL, curve, labelled, legend_over

TEST, FORGETTING, TASK = COLOURS[0], COLOURS[1], "#AAAAAA"
LOW, HIGH = -4, 104  # a little beyond 0 and 100 %
TASKS_IN_LEGEND = 5  # of more tasks a colour bar shows which is which


def _of_tasks(cell: str) -> list[float]:
    """The accuracies in a cell of ``task_accuracies``; ValueError if it holds none."""
    found = json.loads(cell)
    if not isinstance(found, list) or not found or not all(isinstance(a, float) for a in found):
        raise ValueError(f"task_accuracies holds {cell!r:.40}, no list of accuracies")
    return found


def by_task(axes: Axes, epochs: pd.DataFrame) -> None:
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
        axes.plot(*zip(*seen, strict=True), color=colour, label=f"task {task + 1}", **curve(epochs))
    labelled(axes, "epoch", "test accuracy (%)")
    axes.set_ylim(LOW, HIGH)
    if count > TASKS_IN_LEGEND:
        legend_over(axes, "Accuracy by task", ncols=0)
        limits = [number + 0.5 for number in range(count + 1)]
        scale = ScalarMappable(BoundaryNorm(limits, count), ListedColormap(list(colours)))
        ticks = MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10])
        bar = axes.figure.colorbar(scale, ax=axes, ticks=ticks, pad=0.02)
        bar.ax.tick_params(labelsize=SMALL)
        bar.ax.minorticks_off()
        bar.set_label("task", fontsize=SMALL)
    else:
        legend_over(axes, "Accuracy by task")


def over_tasks(axes: Axes, epochs: pd.DataFrame) -> None:
    """Average accuracy and forgetting of the tasks so far, over epochs."""
    average, forgotten = 100 * epochs["average_accuracy"], 100 * epochs["forgetting"]
    axes.plot(epochs["epoch"], average, color=TEST, label="average accuracy", **curve(epochs))
    axes.plot(epochs["epoch"], forgotten, color=FORGETTING, label="forgetting", **curve(epochs))
    low = LOW + min(0, forgotten.min())  # tasks can also get better
    _mark_tasks(axes, epochs, low, HIGH, "next task")
    labelled(axes, "epoch", "of the tasks so far (%)")
    axes.set_ylim(low, HIGH)
    legend_over(axes, "Average accuracy and forgetting")


def _mark_tasks(axes: Axes, epochs: pd.DataFrame, low: float, high: float, label: str = "") -> None:
    """A thin line wherever one task ended and the next began."""
    begins = epochs["epoch"][epochs["task"].diff() > 0] - 0.5
    if len(begins):
        axes.vlines(begins, low, high, colors=TASK, linewidth=0.5, label=label, zorder=0)
