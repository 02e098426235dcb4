"""How accurate are groups of runs, over epochs and against sparsity?

Pictures are 3.5 inches wide, a column of a paper, with text of 7 and 8 points.
"""

import statistics
import textwrap
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from refine.plain import of_picture
from refine.report.groups import Group, Grouping, spread
from refine.report.runs import Measurement
from refine.report.style import COLOURS, DARK, HEIGHT, LINE, SMALL, one_panel

# After seven groups the colours start again, with the next line and marker.
REPEATS = (("-", "o"), ("--", "s"), (":", "^"))
MARKERS = "osD^vPX*"
FRONT: dict[str, Any] = {"color": DARK, "linewidth": 0.9, "linestyle": "-"}
DENSE: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (5, 2))}
MARGIN = 0.05  # of the axis, beyond what is drawn


class Point(NamedTuple):
    """A group's means at one number of cycles, in per cent."""

    sparsity: float
    accuracy: float


def curves(grouping: Grouping) -> Figure:
    """Test accuracy over epochs: each group's mean, and the band from its lowest run to its
    highest; a dot is the last epoch before a cut."""
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
        if _is_dense(group):
            lasts = set()  # its cycles cut nothing
        alone = len(epochs) == 1  # a line of one point would be invisible
        marked = [index for index, epoch in enumerate(epochs) if epoch in lasts or alone]
        axes.plot(epochs, mean, linewidth=1.2, markevery=marked, markersize=2.5, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    handles = [_handle(n, _is_dense(group)) for n, group in enumerate(grouping.groups)]
    several = any(len(group.runs) > 1 for group in grouping.groups)
    notes = ["mean; band: lowest to highest run"] if several else []
    if not all(_is_dense(group) for group in grouping.groups):
        notes.append("marked: a cut follows")
    _legend(figure, handles, [_label(group) for group in grouping.groups], "; ".join(notes))
    return figure


def pareto(grouping: Grouping) -> Figure:
    """Test accuracy against sparsity: each group's mean at the end with 95 % t intervals, small
    its means before its cuts, and the front of them all. Groups that cut nothing are lines."""
    figure, axes = one_panel("sparsity (% of all parameters)", "test accuracy (%)")
    handles: list[Line2D] = []
    points: list[Point] = []
    for position, group in enumerate(grouping.groups):
        dense = _is_dense(group)
        if dense:
            _dense_line(axes, group, _style(position)["color"])
        else:
            points += _points(axes, group, _alone(position))
        handles.append(_handle(position, dense, joined=False))
    labels = [_label(group) for group in grouping.groups]
    if len(ahead := front(points)) > 1:
        least = min(point.sparsity for point in points)  # the first is the best from there on
        x, y = zip(ahead[0]._replace(sparsity=least), *ahead, strict=True)
        axes.step(x, y, where="pre", zorder=1, **FRONT)
        handles.append(Line2D([], [], **FRONT))
        labels.append("front: the best mean at this sparsity or above")
    _within_percent(axes)
    several = any(len(group.runs) > 1 for group in grouping.groups)
    notes = ["means with 95 % t intervals"] if several else []
    if points:
        notes.append("large: the end; small: before a cut")
    _legend(figure, handles, labels, "; ".join(notes))
    return figure


def front(points: list[Point]) -> list[Point]:
    """The points that no other one beats in both accuracy and sparsity, by sparsity."""
    ahead: list[Point] = []
    for point in sorted(points, reverse=True):
        if not ahead or point.accuracy > ahead[-1].accuracy:
            ahead.append(point)
    return ahead[::-1]


def _is_dense(group: Group) -> bool:
    """Whether nothing was cut in any of its runs."""
    return all(row.sparsity == 0 for run in group.runs for row in (*run.epochs, run.end))


def _dense_line(axes: Axes, group: Group, colour: str) -> None:
    found = spread([100 * run.end.test_accuracy for run in group.runs])
    assert found.mean is not None
    axes.axhline(found.mean, color=colour, zorder=1, **DENSE)
    if found.interval:
        low, high = found.interval
        axes.axhspan(max(0, low), min(100, high), color=colour, alpha=0.12, lw=0, zorder=0)


def _points(axes: Axes, group: Group, style: dict[str, Any]) -> list[Point]:
    """Draws a group's means; at the end with intervals."""
    levels = list(group.levels().values())
    ends = [run.end for run in group.runs]
    if levels and levels[-1][0].sparsity == ends[0].sparsity:
        levels.pop()  # no cut came after the last epoch
    points = []
    for rows in levels:
        points.append(_mean(rows))
        axes.plot(*points[-1], markersize=2.5, alpha=0.7, **style)
    points.append(end := _mean(ends))
    across = spread([100 * row.sparsity for row in ends]).half_width or 0
    up = spread([100 * row.test_accuracy for row in ends]).half_width or 0
    axes.errorbar(
        *end,
        xerr=[[across], [across]] if across else None,  # at a fixed ratio it is 0
        # no accuracy is below 0 or above 100 %, however wide the interval of two runs is
        yerr=[[min(up, end.accuracy)], [min(up, 100 - end.accuracy)]] if up else None,
        markersize=5,
        elinewidth=0.8,
        capsize=2,
        **style,
    )
    return points


def _mean(rows: list[Measurement]) -> Point:
    return Point(
        statistics.fmean(100 * row.sparsity for row in rows),
        statistics.fmean(100 * row.test_accuracy for row in rows),
    )


def _within_percent(axes: Axes) -> None:
    """An axis that ends where accuracies do, however wide the interval of few runs is."""
    low, high = (min(max(end, 0.0), 100.0) for end in axes.get_ylim())
    axes.set_ylim(low, min(axes.get_ylim()[1], high + MARGIN * (high - low)))


def _style(position: int) -> dict[str, Any]:
    line, marker = REPEATS[position // len(COLOURS) % len(REPEATS)]
    return {"color": COLOURS[position % len(COLOURS)], "linestyle": line, "marker": marker}


def _alone(position: int) -> dict[str, Any]:
    """The style of points that no line joins. Each has its own marker, as they may coincide."""
    marker = MARKERS[position % len(MARKERS)]
    return {"color": COLOURS[position % len(COLOURS)], "linestyle": "none", "marker": marker}


def _handle(position: int, dense: bool, joined: bool = True) -> Line2D:
    """What stands for a group in the legend, as it looks in the picture."""
    style = _style(position) if joined or dense else _alone(position)
    if dense:
        style |= {"marker": ""} | ({} if joined else DENSE)
    return Line2D([], [], markersize=3 if joined else 5, **{"linewidth": 1.4} | style)


def _legend(figure: Figure, handles: list[Line2D], labels: list[str], note: str) -> None:
    """A line for each group below the axes; the figure grows by its height."""
    lines = bool(note) + sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(HEIGHT + LINE * lines)
    figure.legend(
        handles,
        labels,
        title=note or None,
        title_fontsize=SMALL,
        fontsize=SMALL,
        frameon=False,
        handlelength=3,  # long enough to show the dashes
        loc="outside lower center",
    )


def _label(group: Group) -> str:
    return textwrap.fill(
        of_picture(f"{group.name} (n={len(group.runs)})" + ", nothing cut" * _is_dense(group)),
        width=52,
        break_long_words=False,
        break_on_hyphens=False,
    )
