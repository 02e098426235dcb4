"""How much faster did each form of a network become, at each batch size?"""

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from refine.bench.rows import DENSE, BenchRow, compared
from refine.plain import of_picture
from refine.report.style import COLOURS, DARK, LABEL, LINE, SMALL, WIDTH, plain_axes

WIDE = 6.0  # times; speed-ups further apart need a logarithmic axis
BAR = 0.16  # inches, with the gap beside it
LARGEST = 7.0  # inches of width, a page of a paper
WRITTEN = 24  # bars in a panel that have their number written on them
PROMISED: dict[str, Any] = {"color": COLOURS[1], "linestyle": "--", "linewidth": 1.1}
NO_GAIN: dict[str, Any] = {"color": DARK, "linestyle": ":", "linewidth": 1.0}
Network = tuple[str, str]  # the run and what became of it
Pairs = Sequence[tuple[BenchRow, float]]


def speedups(rows: Sequence[BenchRow]) -> Figure:
    """The measured speed-up of each network, in a panel each: bars by form and, the darker the
    larger, by batch size. Lines are what fewer multiply-accumulates promised, and no gain."""
    shown = [(row, speedup) for row, speedup in compared(rows) if row.contestant != DENSE]
    by_network: dict[Network, list[tuple[BenchRow, float]]] = {}
    for row, speedup in shown:
        by_network.setdefault((row.run, row.contestant), []).append((row, speedup))
    forms = list(dict.fromkeys(row.form for row, _ in shown))
    batches = sorted({row.batch for row in rows})
    bars = len(forms) * (len(batches) + 1)
    width = min(LARGEST, max(WIDTH, 0.6 + BAR * bars))
    count = max(1, len(by_network))
    figure = Figure(figsize=(width, 0.7 + 1.7 * count), layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    colours = _colours(len(batches))
    ends = [1.0, *(row.promised_speedup for row, _ in shown), *(speedup for _, speedup in shown)]
    far = max(ends) > WIDE
    for axes, (network, pairs) in zip(panels, by_network.items(), strict=False):
        _bars(axes, pairs, (forms, batches, colours), 1.0 if far else 0.0)
        name = f"{network[0]}, {network[1]}"
        axes.set_title(of_picture(name), fontsize=LABEL, loc="left")
    for axes in panels:
        plain_axes(axes)
        axes.grid(visible=False, axis="x")
        axes.axhline(1, zorder=3, **NO_GAIN)
        axes.set_ylabel("speed-up", fontsize=LABEL)
        _scale(axes, min(ends), max(ends), far)
    panels[-1].set_xticks(range(len(forms)), map(of_picture, forms), fontsize=SMALL)
    if max(map(len, forms), default=0) * 0.06 > width / max(1, len(forms)):
        for name in panels[-1].get_xticklabels():
            name.set(rotation=25, ha="right", rotation_mode="anchor")
    handles: list[Any] = [
        Patch(color=colour, label=f"batch {batch}")
        for batch, colour in zip(batches, colours, strict=True)
    ]
    handles += [Line2D([], [], label="as promised by MACs", **PROMISED)]
    handles += [Line2D([], [], label="no gain", **NO_GAIN)]
    _legend(figure, handles, _title(rows))
    return figure


def _bars(
    axes: Axes, pairs: Pairs, of: tuple[list[str], list[int], list[Any]], start: float
) -> None:
    """A bar from ``start`` for each form and batch size; less than ``start`` leads down."""
    forms, batches, colours = of
    bar = 0.8 / len(batches)
    for row, speedup in pairs:
        place, order = forms.index(row.form), batches.index(row.batch)
        x = place + bar * (order - (len(batches) - 1) / 2)
        axes.bar(x, speedup - start, 0.92 * bar, bottom=start, color=colours[order])
        if len(forms) * len(batches) <= WRITTEN:
            axes.annotate(
                f"{speedup:.1f}" if speedup < 10 else f"{speedup:.0f}",
                (x, speedup),
                textcoords="offset points",
                xytext=(0, -1.5 if speedup < start else 1.5),
                ha="center",
                va="top" if speedup < start else "bottom",
                fontsize=SMALL,
            )
    for form in {row.form for row, _ in pairs}:
        promised = next(row.promised_speedup for row, _ in pairs if row.form == form)
        place = forms.index(form)
        axes.hlines(promised, place - 0.5, place + 0.5, zorder=3, **PROMISED)
    axes.set_xlim(-0.6, len(forms) - 0.4)


def _colours(count: int) -> list[Any]:
    """From light to dark, so that the order is seen with every form of colour vision."""
    blues = colormaps["Blues"]
    return [blues(0.35 + 0.55 * (n / (count - 1) if count > 1 else 0.6)) for n in range(count)]


def _scale(axes: Axes, low: float, high: float, far: bool) -> None:
    """An axis from 0; where speed-ups are far apart, a logarithmic one."""
    if not far:
        axes.set_ylim(0, 1.15 * high)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    else:
        axes.set_yscale("log", base=2)
        axes.set_ylim(low / 1.5, 1.4 * high)
        axes.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))


def _legend(figure: Figure, handles: list[Any], title: str) -> None:
    lines = 1 + -(-len(handles) // 3)
    figure.set_figheight(figure.get_figheight() + LINE * lines)
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=SMALL,
        fontsize=SMALL,
        frameon=False,
        ncols=3,
        handlelength=1.8,
        columnspacing=1.2,
        loc="outside lower center",
    )


def _title(rows: Sequence[BenchRow]) -> str:
    threads = rows[0].threads
    device = f"{threads} CPU thread{'s' * (threads != 1)}"
    if rows[0].device.startswith("cuda"):
        device = "GPU"
    return f"measured on {device}, against the dense network in the same form"
