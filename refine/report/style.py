"""How does every picture look: its colours, sizes, axes and files?

A column of a paper is 3.5 inches wide; text is 7 to 9 points, so that it can be read in print.
"""

from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from refine.records.files import written_whole

# Okabe and Ito's colours (2008), without the yellow, which is too light for white paper. They can
# be told apart with every form of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, DARK = "#999999", "#444444"
WIDTH, HEIGHT = 3.5, 2.5  # inches, without the legend
TITLE, LABEL, SMALL = 9, 8, 7  # points
LINE = 0.15  # inches of height for a line of SMALL text
MANY = 60  # epochs; the dots of more would be one thick line
# What is written beside the PNG, by what the setting figure_formats says.
ALSO = {"png": (), "pdf": (".pdf",), "svg": (".svg",), "all": (".pdf", ".svg")}
# Letters stay letters: they can be searched for and edited, and journals take the fonts.
LETTERS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none"}


def save(figure: Figure, path: Path) -> None:
    """Writes ``figure`` in the format that the path's ending says."""
    with written_whole(path) as part, rc_context(LETTERS):
        figure.savefig(part, format=path.suffix.removeprefix(".").lower(), dpi=300)


def save_all(figure: Figure, path: Path, formats: str) -> None:
    """Writes the PNG at ``path`` and, beside it, what else ``formats`` names."""
    for ending in (path.suffix, *ALSO[formats]):
        save(figure, path.with_suffix(ending))


def one_panel(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty picture, one column wide, with labelled axes."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    labelled(axes, x, y)
    return figure, axes


def curve(points: Sized) -> dict[str, Any]:
    """The style of a line over these ``points``."""
    return {"linewidth": 1.4, "marker": "o" if len(points) <= MANY else "", "markersize": 2.5}


def labelled(axes: Axes, x: str, y: str) -> None:
    """Names both axes."""
    axes.set_xlabel(x, fontsize=LABEL)
    axes.set_ylabel(y, fontsize=LABEL)


def plain_axes(axes: Axes) -> None:
    """Axes with a faint grid behind what is drawn, and without a frame."""
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_over(axes: Axes, title: str, handles: Iterable[Any] = (), ncols: int = 5) -> None:
    """The title, and between it and the axes the legend, which covers nothing; with ``ncols`` 0
    there is none."""
    shown = (list(handles) or axes.get_legend_handles_labels()[0]) if ncols else []
    lines = -(-len(shown) // max(1, ncols))
    axes.set_title(title, fontsize=TITLE, pad=4 + 11 * max(1, lines))  # all at one height
    if shown:
        axes.legend(
            handles=shown,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            borderaxespad=0.1,
            ncols=min(ncols, len(shown)),
            fontsize=SMALL,
            frameon=False,
            handlelength=1.6,
            handletextpad=0.5,
            columnspacing=1.0,
            borderpad=0.1,
        )


def spaced(positions: list[float], span: float) -> list[int]:
    """Which of ``positions``, in this order, can have a label: the first, the last, and those at
    least ``span`` from the labels beside them."""
    if not positions:
        return []
    end, taken = len(positions) - 1, [0]
    for index in range(1, end):
        near = (positions[taken[-1]], positions[end])
        if all(abs(positions[index] - other) >= span for other in near):
            taken.append(index)
    if end and abs(positions[end] - positions[taken[-1]]) >= span:
        taken.append(end)
    elif end:
        taken[-1] = end
    return taken
