"""How accurate is a sweep of two settings, at each pair of their values?"""

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from refine.errors import ReportError
from refine.plain import of_picture, plain
from refine.records.rows import SUMMARY_FILE
from refine.report import runs
from refine.report.groups import UNSET, Grouping, order, text
from refine.report.style import LABEL, SMALL, WIDTH
from refine.report.texts import Unusable, json_of

Cell = tuple[str, str]  # the values upwards and across
ERRORS = 6  # standard errors that the colours span at least
LEAST = 1.0  # points that they span at least


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


def grid(grouping: Grouping, across: str, up: str, left_out: Iterable[Path] = ()) -> Figure:
    """Mean final test accuracy for every pair of values of two settings, as a heat map.

    Its colours span at least a few standard errors, so that noise looks like noise. Pairs without
    a finished run are hatched, with what became of the runs in the directories ``left_out``.
    """
    cells: dict[Cell, list[float]] = {}
    for group in grouping.groups:
        place = group.settings[up], group.settings[across]
        cells.setdefault(place, []).extend(100 * run.end.test_accuracy for run in group.runs)
    lost = _lost(left_out, (up, across), cells)
    places = {*cells, *lost}
    rows, columns = (sorted({place[axis] for place in places}, key=order) for axis in (0, 1))
    nothing = float("nan")
    means = [
        [statistics.fmean(cells.get((row, column), [nothing])) for column in columns]
        for row in rows
    ]
    width, height = max(WIDTH, 1.3 + 0.72 * len(columns)), max(1.8, 1.0 + 0.42 * len(rows))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes, scale = figure.subplots(), Normalize(*colour_span(cells))
    image = axes.imshow(means, colormaps["cividis"], norm=scale, aspect="auto", origin="lower")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            values, gone = cells.get((row, column), []), lost.get((row, column), Counter())
            if not values:
                hatched = Rectangle((x - 0.5, y - 0.5), 1, 1, linewidth=0, hatch="////")
                hatched.set(facecolor="white", edgecolor="#BBBBBB")
                axes.add_patch(hatched)
            red, green, blue, _ = image.cmap(scale(means[y][x])) if values else (1, 1, 1, 1)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            box = None if values else {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            said = axes.text(x, y, _said(values, gone), ha="center", va="center", bbox=box)
            said.set(fontsize=SMALL, color="white" if dark else "black")
    _name_axes(axes, (columns, across), (rows, up))
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("final test accuracy (%)", fontsize=LABEL)
    bar.ax.tick_params(labelsize=SMALL)
    pooled = [name for name in grouping.shown if name not in (across, up)]
    notes = [f"pooled over {', '.join(pooled)}"] if pooled else []
    if any(len(values) > 1 for values in cells.values()):
        notes.append("mean ± standard deviation of n runs")
    lines = [textwrap.fill(of_picture(note), 50) for note in notes]
    axes.set_title("\n".join(lines), fontsize=SMALL)
    return figure


def colour_span(cells: dict[Cell, list[float]]) -> tuple[float, float]:
    """The ends of the colour scale, in per cent: the cells' means, or more where they differ by
    less than ERRORS of their standard errors."""
    means = [statistics.fmean(values) for values in cells.values()]
    variances = [
        statistics.variance(values) / len(values) for values in cells.values() if len(values) > 1
    ]
    error = statistics.fmean(variances) ** 0.5 if variances else 0.0
    low, high = min(means), max(means)
    wider = max(0.0, max(ERRORS * error, LEAST) - (high - low)) / 2
    over = max(0.0, high + wider - 100)  # there is no accuracy above 100 %
    return low - wider - over, high + wider - over


def _lost(
    left_out: Iterable[Path], names: tuple[str, str], cells: dict[Cell, list[float]]
) -> dict[Cell, Counter[str]]:
    """How many runs that are not in the grid ended in which way, for each pair of values."""
    lost: dict[Cell, Counter[str]] = {}
    for directory in left_out:
        try:
            settings = runs.settings_of(directory)
        except Unusable:
            continue
        place = []
        for axis, name in enumerate(names):
            value = text(settings[name]) if name in settings else UNSET
            short = value.rpartition(".")[2]  # as groups shorten import paths
            place.append(short if short in {cell[axis] for cell in cells} else value)
        lost.setdefault((place[0], place[1]), Counter())[_ending(directory)] += 1
    return lost


def _ending(directory: Path) -> str:
    try:
        summary = json_of(directory / SUMMARY_FILE)
    except Unusable:
        return "unfinished"
    status = summary.get("status") if isinstance(summary, dict) else None
    return "broken" if status in (None, "finished") else plain(status)


def _said(values: list[float], gone: Counter[str]) -> str:
    """What a cell says of the runs in it."""
    lost = ", ".join(f"{count} {how}" for how, count in gone.items())
    if not values:
        return lost or "no run"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    counts = f"n={len(values)}" + (f", {lost}" if lost else "")
    return f"{statistics.fmean(values):.2f}{spread}\n{counts}"


def _name_axes(axes: Axes, x: tuple[list[str], str], y: tuple[list[str], str]) -> None:
    (columns, across), (rows, up) = x, y
    axes.set_xticks(range(len(columns)), map(of_picture, columns), fontsize=SMALL)
    axes.set_yticks(range(len(rows)), map(of_picture, rows), fontsize=SMALL)
    axes.set_xlabel(of_picture(across), fontsize=LABEL)
    axes.set_ylabel(of_picture(up), fontsize=LABEL)
