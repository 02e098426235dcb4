"""Was a network as much faster as its multiply-accumulates promised?"""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from refine.bench.rows import DENSE, EXPORTED, BenchRow
from refine.bench.summary import reference_batch
from refine.report.plots import COLOURS, HEIGHT, one_panel

MARKERS = "osD^vP*X"
TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
GREY, DARK = "#999999", "#444444"
MORE_COLOURS = ("#882255", "#999933", "#44AA99", "#332288")  # Tol's, after Okabe and Ito's
DOT = {"markersize": 4.5, "markeredgewidth": 0.9, "linestyle": "none"}
APART = 0.014  # of the picture's width, between two forms of one network


def speedups(rows: Sequence[BenchRow]) -> Figure:
    """Measured against promised speed-up: a colour a form, a marker a run, filled if refined and
    hollow if exported; a thin line is from the slowest to the fastest batch size. Forms of one
    network, whose promise is the same, stand a little beside each other."""
    batch = reference_batch(rows)
    shown = [row for row in rows if row.contestant != DENSE and row.speedup]
    figure, axes = one_panel("speed-up promised by fewer MACs", "speed-up measured")
    forms = list(dict.fromkeys(row.form for row in rows))
    known = COLOURS + MORE_COLOURS
    colours = {form: known[n % len(known)] for n, form in enumerate(forms)}
    runs = list(dict.fromkeys(row.run for row in rows))
    markers = {run: MARKERS[n % len(MARKERS)] for n, run in enumerate(runs)}
    across = [1.0, *(row.promised_speedup for row in shown)]
    up = [1.0, *(row.speedup for row in shown)]
    left, right = min(across) / 1.25, max(across) * 1.25
    for row in (row for row in shown if row.batch == batch):
        beside = APART * (forms.index(row.form) - (len(forms) - 1) / 2)
        x, colour = row.promised_speedup * (right / left) ** beside, colours[row.form]
        same = [r.speedup for r in shown if _who(r) == _who(row)]
        axes.vlines(x, min(same), max(same), linewidth=0.8, color=colour)
        axes.plot(
            x,
            row.speedup,
            color=colour,
            marker=markers[row.run],
            markerfacecolor="white" if row.contestant == EXPORTED else colour,
            **DOT,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    low, high = min(left, *up) / 2, max(right, *up) * 2
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    axes.axhline(1, color=GREY, linewidth=0.9, linestyle=":", zorder=0)
    axes.set_xlim(left, right)
    axes.set_ylim(min(up) / 1.1, max(*up, max(across)) * 1.1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    dots = {form: {"color": colours[form], "marker": "o"} for form in forms}
    if len(runs) > 1:
        dots |= {run: {"color": DARK, "marker": markers[run]} for run in runs}
    if any(row.contestant == EXPORTED for row in shown):
        hollow = {"color": DARK, "marker": markers[runs[0]], "markerfacecolor": "white"}
        dots["hollow: exported"] = hollow
    handles = [Line2D([], [], label=name, **DOT, **style) for name, style in dots.items()]
    for name, line in (("as promised", "--"), ("no gain", ":")):
        handles.append(Line2D([], [], color=GREY, linestyle=line, linewidth=0.9, label=name))
    figure.set_figheight(HEIGHT + 0.4 + 0.16 * ((len(handles) + 1) // 2))
    figure.legend(
        handles=handles,
        title=_title(rows, batch),
        title_fontsize=7,
        fontsize=7,
        frameon=False,
        ncols=2,
        loc="outside lower center",
    )
    return figure


def _title(rows: Sequence[BenchRow], batch: int) -> str:
    threads = rows[0].threads
    device = f"{threads} CPU thread{'s' * (threads != 1)}"
    if rows[0].device.startswith("cuda"):
        device = "GPU"
    span = "" if len({row.batch for row in rows}) == 1 else "; lines: all batch sizes"
    return f"batches of {batch}, {device}{span}"


def _who(row: BenchRow) -> tuple[str, str, str]:
    return row.run, row.contestant, row.form
