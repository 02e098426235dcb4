"""Was a network as much faster as its multiply-accumulates promised?"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from refine.bench.rows import DENSE, EXPORTED, BenchRow, compared
from refine.bench.summary import reference_batch
from refine.report.plots import COLOURS, HEIGHT, one_panel

MARKERS = "osD^vP*X"
TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
GREY, DARK = "#999999", "#444444"
MORE_COLOURS = ("#882255", "#999933", "#44AA99", "#332288")  # Tol's, after Okabe and Ito's
DOT: Mapping[str, Any] = {"markersize": 4.5, "markeredgewidth": 0.9, "linestyle": "none"}
REFERENCES: tuple[tuple[str, Literal["--", ":"]], ...] = (("as promised", "--"), ("no gain", ":"))
APART = 0.014  # of the picture's width, between two forms of one network


def speedups(rows: Sequence[BenchRow]) -> Figure:
    """Measured against promised speed-up. Each form has a colour and each run a marker, which is
    filled for the refined network and hollow for the exported one. A thin line leads from the
    slowest to the fastest batch size. The forms of a network have the same promise, and are drawn
    a little beside each other."""
    batch = reference_batch(rows)
    shown = [(row, speedup) for row, speedup in compared(rows) if row.contestant != DENSE]
    figure, axes = one_panel("speed-up promised by fewer MACs", "speed-up measured")
    forms = list(dict.fromkeys(row.form for row in rows))
    runs = list(dict.fromkeys(row.run for row in rows))
    colours = dict(zip(forms, cycle(COLOURS + MORE_COLOURS), strict=False))
    markers = dict(zip(runs, cycle(MARKERS), strict=False))
    across = [1.0, *(row.promised_speedup for row, _ in shown)]
    up = [1.0, *(speedup for _, speedup in shown)]
    left, right = min(across) / 1.25, max(across) * 1.25
    for row, speedup in shown:
        if row.batch != batch:
            continue
        beside = APART * (forms.index(row.form) - (len(forms) - 1) / 2)
        x, colour = row.promised_speedup * (right / left) ** beside, colours[row.form]
        all_batches = [value for other, value in shown if _series(other) == _series(row)]
        axes.vlines(x, min(all_batches), max(all_batches), linewidth=0.8, color=colour)
        inside = "white" if row.contestant == EXPORTED else colour
        marker = markers[row.run]
        axes.plot(x, speedup, color=colour, marker=marker, markerfacecolor=inside, **DOT)
    _scale(axes, (left, right), (min(up) / 1.1, max(*up, max(across)) * 1.1), up)
    dots = {form: {"color": colours[form], "marker": "o"} for form in forms}
    if len(runs) > 1:
        dots |= {run: {"color": DARK, "marker": markers[run]} for run in runs}
    if any(row.contestant == EXPORTED for row, _ in shown):
        hollow = {"color": DARK, "marker": markers[runs[0]], "markerfacecolor": "white"}
        dots["hollow: exported"] = hollow
    _legend(figure, dots, _title(rows, batch))
    return figure


def _scale(
    axes: Axes, across: tuple[float, float], upright: tuple[float, float], up: Sequence[float]
) -> None:
    """Logarithmic axes with these limits, and the lines of what was promised and of no gain."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    low, high = min(across[0], *up) / 2, max(across[1], *up) * 2
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    axes.axhline(1, color=GREY, linewidth=0.9, linestyle=":", zorder=0)
    axes.set_xlim(*across)
    axes.set_ylim(*upright)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))


def _legend(figure: Figure, dots: Mapping[str, Mapping[str, Any]], title: str) -> None:
    handles = [Line2D([], [], label=name, **DOT, **style) for name, style in dots.items()]
    for name, line in REFERENCES:
        handles.append(Line2D([], [], color=GREY, linestyle=line, linewidth=0.9, label=name))
    figure.set_figheight(HEIGHT + 0.4 + 0.16 * ((len(handles) + 1) // 2))
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=7,
        fontsize=7,
        frameon=False,
        ncols=2,
        loc="outside lower center",
    )


def _title(rows: Sequence[BenchRow], batch: int) -> str:
    threads = rows[0].threads
    device = f"{threads} CPU thread{'s' * (threads != 1)}"
    if rows[0].device.startswith("cuda"):
        device = "GPU"
    span = "" if len({row.batch for row in rows}) == 1 else "; lines: all batch sizes"
    return f"batches of {batch}, {device}{span}"


def _series(row: BenchRow) -> tuple[str, str, str]:
    """What the rows of all batch sizes have in common."""
    return row.run, row.contestant, row.form
