"""What do groups of runs look like side by side in a figure?

Pictures are 3.5 inches wide, a column of a paper, with text of 7 and 8 points.
"""

import statistics
import textwrap
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from refine.errors import ReportError
from refine.plain import of_picture
from refine.records.files import written_whole
from refine.report.groups import Group, Grouping, order, spread

# Okabe and Ito's colours (2008), without the yellow, which is too light for white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# After seven groups the colours start again, with the next line and marker.
REPEATS = (("-", "o"), ("--", "s"), (":", "^"))
WIDTH, HEIGHT = 3.5, 2.5  # inches, without the legend


def save(figure: Figure, path: Path) -> None:
    """Writes ``figure`` in the format that the path's ending says."""
    with written_whole(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=300)


def curves(grouping: Grouping) -> Figure:
    """Test accuracy over epochs: each group's mean, and the band from its lowest run to its
    highest; a dot is the last epoch before a cycle."""
    figure, axes = one_panel("epoch", "test accuracy (%)")
    for position, group in enumerate(grouping.groups):
        style = _style(position)
        by_epoch: dict[int, list[float]] = {}
        for run in group.runs:
            for row in run.epochs:
                by_epoch.setdefault(row.epoch, []).append(100 * row.test_accuracy)
        epochs = list(by_epoch)
        mean = [statistics.fmean(values) for values in by_epoch.values()]
        low, high = zip(*((min(values), max(values)) for values in by_epoch.values()), strict=True)
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
        lasts = {row.epoch for rows in group.levels().values() for row in rows} - {max(epochs)}
        alone = len(epochs) == 1  # a line of one point would be invisible
        marked = [index for index, epoch in enumerate(epochs) if epoch in lasts or alone]
        axes.plot(epochs, mean, linewidth=1.2, markevery=marked, markersize=2.5, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    several = any(len(group.runs) > 1 for group in grouping.groups)
    band = "mean; band: lowest to highest run; " if several else ""
    _legend(figure, grouping, band + "marked: a cycle follows")
    return figure


def pareto(grouping: Grouping) -> Figure:
    """Test accuracy against sparsity: each group's means at every level of cycles, joined, and at
    the end, larger, with 95 % t intervals."""
    figure, axes = one_panel("sparsity (% of all parameters)", "test accuracy (%)")
    for position, group in enumerate(grouping.groups):
        style = _style(position)
        levels = [*group.levels().values(), [run.end for run in group.runs]]
        points = []
        for size, rows in zip([3] * (len(levels) - 1) + [5.5], levels, strict=True):
            sparsities = [100 * row.sparsity for row in rows]
            accuracies = [100 * row.test_accuracy for row in rows]
            points.append((statistics.fmean(sparsities), statistics.fmean(accuracies)))
            axes.errorbar(
                *points[-1],
                xerr=spread(sparsities).half_width or None,  # at a fixed ratio it is 0
                yerr=spread(accuracies).half_width,
                marker=style["marker"],
                markersize=size,
                color=style["color"],
                elinewidth=0.8,
                capsize=2,
            )
        axes.plot(*zip(*points, strict=True), linewidth=1.0, alpha=0.7, markersize=0, **style)
    several = any(len(group.runs) > 1 for group in grouping.groups)
    note = "means with 95 % t intervals; large: the end" if several else "large: the end"
    _legend(figure, grouping, note)
    return figure


def swept(grouping: Grouping, chosen: list[str] | None) -> tuple[str, str]:
    """The settings of a grid's x and y axis; ReportError if it is not clear which."""
    if chosen is None:
        differing = list(grouping.shown)
        if len(differing) != 2:
            which = f": {', '.join(differing)}" if differing else ""
            raise ReportError(
                f"a grid needs exactly two settings that differ; here {len(differing)} do{which}"
                + (". Choose with --grid X Y" if len(differing) > 2 else "")
            )
        return differing[0], differing[1]
    known = list(grouping.groups[0].settings)
    for name in chosen:
        if name not in known:
            differ = ", ".join(known) or "none"
            raise ReportError(f"--grid: {name} does not differ between these runs. Known: {differ}")
    if chosen[0] == chosen[1]:
        raise ReportError("--grid: needs two settings, not one twice")
    return chosen[0], chosen[1]


def grid(grouping: Grouping, across: str, up: str) -> Figure:
    """Mean final test accuracy for every pair of values of two settings, as a heat map."""
    cells: dict[tuple[str, str], list[float]] = {}
    for group in grouping.groups:
        place = group.settings[up], group.settings[across]
        cells.setdefault(place, []).extend(100 * run.end.test_accuracy for run in group.runs)
    rows, columns = (sorted({place[axis] for place in cells}, key=order) for axis in (0, 1))
    nothing = float("nan")
    means = [
        [statistics.fmean(cells.get((row, column), [nothing])) for column in columns]
        for row in rows
    ]
    width, height = max(WIDTH, 1.3 + 0.5 * len(columns)), max(1.8, 1.0 + 0.4 * len(rows))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes, scale = figure.subplots(), Normalize()
    image = axes.imshow(means, colormaps["cividis"], norm=scale, aspect="auto", origin="lower")
    for (row, column), values in cells.items():
        y, x = rows.index(row), columns.index(column)
        red, green, blue, _ = image.cmap(scale(means[y][x]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        label = f"{means[y][x]:.2f}\nn={len(values)}"
        colour = "white" if dark else "black"
        axes.text(x, y, label, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(columns)), map(of_picture, columns), fontsize=7)
    axes.set_yticks(range(len(rows)), map(of_picture, rows), fontsize=7)
    axes.set_xlabel(of_picture(across), fontsize=8)
    axes.set_ylabel(of_picture(up), fontsize=8)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("final test accuracy (%)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    pooled = [name for name in grouping.shown if name not in (across, up)]
    if pooled:
        axes.set_title(
            textwrap.fill(of_picture(f"pooled over {', '.join(pooled)}"), 50), fontsize=7
        )
    return figure


def one_panel(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty picture, one column wide, with labelled axes."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(position: int) -> dict[str, Any]:
    line, marker = REPEATS[position // len(COLOURS) % len(REPEATS)]
    return {"color": COLOURS[position % len(COLOURS)], "linestyle": line, "marker": marker}


def _legend(figure: Figure, grouping: Grouping, note: str) -> None:
    """A line for each group below the axes; the figure grows by its height."""
    labels = [_label(group) for group in grouping.groups]
    handles = [Line2D([], [], linewidth=1.4, markersize=3, **_style(n)) for n in range(len(labels))]
    lines = 1 + sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(HEIGHT + 0.15 * lines)
    figure.legend(
        handles,
        labels,
        title=note,
        title_fontsize=7,
        fontsize=7,
        frameon=False,
        handlelength=3,  # long enough to show the dashes
        loc="outside lower center",
    )


def _label(group: Group) -> str:
    return textwrap.fill(
        of_picture(f"{group.name} (n={len(group.runs)})"),
        width=52,
        break_long_words=False,
        break_on_hyphens=False,
    )
