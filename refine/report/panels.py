"""How did accuracy, size and loss of a run change, and what did each cut cost?"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from refine.plain import of_picture
from refine.report.stream import by_task, over_tasks
from refine.report.style import (
    COLOURS,
    GREY,
    SMALL,
    TITLE,
    curve,
    labelled,
    legend_over,
    plain_axes,
    spaced,
)

TEST, CUT, VALIDATION, _, TRAIN = COLOURS[:5]
BEFORE, AFTER = "test_accuracy_before", "test_accuracy_after_cut"
REPLAYED = "test_accuracy_after_replay"
WRITTEN = 4  # cuts whose accuracies are written beside them; of more, the axis has to do
APART = 0.1  # of the axis, between a label and a line
BESIDE = 0.13  # of the sparsities, between two labels
FEW = 12  # cycles that get a line from bottom to top
SAME = 0.5  # points; two lines nearer than this everywhere are one
HALO = [withStroke(linewidth=2, foreground="white")]


def run_figure(
    epochs: pd.DataFrame,
    cycles: pd.DataFrame | None = None,
    title: str = "",
    dense_macs: int | None = None,
) -> Figure:
    """Accuracy, sparsity and training loss over epochs, and accuracy against sparsity, for the
    rows of a ``metrics.csv`` and a ``cycles.csv``; 7 inches wide, so that its text is 7 to 9
    points in print. Where channels were cut, size is in multiply-accumulates, of ``dense_macs``.

    A stream of tasks has two more panels, 3.5 inches to the right: accuracy by task, and average
    accuracy and forgetting, over epochs.
    """
    columns = 3 if "average_accuracy" in epochs else 2
    room = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(3.5 * columns, 5.2), layout=room)
    if title:
        figure.suptitle(of_picture(title), fontsize=TITLE, fontweight="bold", wrap=True)
    panels = figure.subplots(2, columns)
    for axes in panels.flat:
        plain_axes(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, steps=[1, 2, 5, 10]))
    accuracy, size, loss, trade = panels[:, :2].flat
    _accuracy(accuracy, epochs, _measured(cycles))
    macs = _macs(epochs, cycles, dense_macs)
    _size(size, epochs, macs)
    _loss(loss, epochs)
    _accuracy_at_size(trade, epochs, macs)
    if columns == 3:
        by_task(panels[0, 2], epochs)
        over_tasks(panels[1, 2], epochs)
    return figure


def _measured(cycles: pd.DataFrame | None) -> pd.DataFrame:
    """The cycles whose accuracies were measured; in per cent."""
    names = [BEFORE, AFTER, REPLAYED]
    if cycles is None or not {*names, "epoch"} <= {*cycles}:
        return pd.DataFrame({name: [] for name in ("epoch", *names)}, dtype=float)
    found = cycles[["epoch", *names]].dropna()
    return found.assign(**{name: 100 * found[name] for name in names})


def _macs(
    epochs: pd.DataFrame, cycles: pd.DataFrame | None, dense_macs: int | None
) -> pd.Series | None:
    """The share of multiply-accumulates saved at each epoch, in per cent; None if no channels were
    cut."""
    if cycles is None or "macs" not in cycles or not dense_macs or cycles["macs"].isna().any():
        return None
    left = {0: dense_macs} | dict(zip(cycles["cycle"], cycles["macs"], strict=True))
    return 100 * (1 - epochs["cycles"].map(left) / dense_macs)


def _accuracy(axes: Axes, epochs: pd.DataFrame, cuts: pd.DataFrame) -> None:
    """Accuracy over epochs; at a cycle the test accuracy falls as the cut makes it, and goes on
    from where the replay has brought it."""
    curves = {"training": TRAIN, "validation": VALIDATION}
    for name, colour in curves.items():
        column = f"{'train' if name == 'training' else name}_accuracy"
        if column in epochs:
            axes.plot(
                epochs["epoch"],
                100 * epochs[column],
                color=colour,
                label=name,
                **curve(epochs),
            )
    points = [(x, 100 * y, True) for x, y in epochs[["epoch", "test_accuracy"]].to_numpy()]
    for epoch, before, _, replayed in cuts.to_numpy():
        at = next((i for i, (x, *_) in enumerate(points) if x > epoch), len(points))
        points[at:at] = [(epoch + 0.5, before, False), (epoch + 0.5, float("nan"), False)]
        points.insert(at + 2, (epoch + 0.5, replayed, False))
    x, y, is_epoch = zip(*points, strict=True)
    marked = [index for index, is_one in enumerate(is_epoch) if is_one]
    axes.plot(x, y, color=TEST, label="test", markevery=marked, **curve(epochs))
    if len(cuts):
        _cuts(axes, cuts)
    else:
        mark_cycles(axes, epochs, "cycle")
    labelled(axes, "epoch", "accuracy (%)")
    legend_over(axes, "Accuracy")
    if 0 < len(cuts) <= WRITTEN:
        _write_costs(axes, cuts)


def _cuts(axes: Axes, cuts: pd.DataFrame) -> None:
    x = cuts["epoch"] + 0.5
    of_each = cuts[[BEFORE, AFTER, REPLAYED]]
    axes.vlines(x, of_each.min(axis=1), of_each.max(axis=1), colors=CUT, linewidth=1)
    dots: dict[str, Any] = {"linestyle": "none", "color": CUT, "zorder": 3}
    axes.plot(x, cuts[AFTER], marker="v", ms=4, label="just cut", **dots)
    axes.plot(x, cuts[REPLAYED], marker="D", ms=3.5, mfc="white", label="replayed", **dots)


def _write_costs(axes: Axes, cuts: pd.DataFrame) -> None:
    """The accuracies after the cut and after the replay, where there is room beside the marks."""
    low, high = axes.get_ylim()
    room = APART * (high - low)
    for epoch, before, cut, replayed in cuts.to_numpy():
        values = [cut] if abs(before - cut) > room else []
        if min(abs(replayed - cut), abs(replayed - before)) > room:
            values.append(replayed)
        for value in values:
            axes.annotate(
                f"{value:.1f}",
                (epoch + 0.5, value),
                textcoords="offset points",
                xytext=(-4, -3),
                ha="right",
                fontsize=SMALL,
                color=CUT,
                path_effects=HALO,
            )


def _size(axes: Axes, epochs: pd.DataFrame, macs: pd.Series | None) -> None:
    """What is cut over epochs: weights, or with whole channels multiply-accumulates too."""
    epoch, of_all = epochs["epoch"], 100 * epochs["sparsity"]
    of_prunable = 100 * epochs["prunable_sparsity"]
    if macs is not None:
        lines = {"multiply-accumulates": macs, "parameters": of_all}
        title, y = "Size", "saved by cut channels (%)"
    else:
        title, y = "Sparsity", "weights that are 0 (%)"
        lines = {"of all parameters": of_all}
        if (of_prunable - of_all).abs().max() >= SAME:
            lines["of prunable weights"] = of_prunable
    for (label, values), (colour, style) in zip(
        lines.items(), ((TEST, "-"), (TRAIN, "--")), strict=False
    ):
        # a step is at the cycle, between two epochs
        axes.step(epoch, values, color=colour, ls=style, where="mid", lw=1.4, label=label)
    axes.set_ylim(bottom=0, top=max(5, 1.1 * max(values.max() for values in lines.values())))
    if len(lines) == 1:
        y = "sparsity of all parameters (%)"
    labelled(axes, "epoch", y)
    legend_over(axes, title, ncols=5 if len(lines) > 1 else 0)


def _loss(axes: Axes, epochs: pd.DataFrame) -> None:
    axes.plot(epochs["epoch"], epochs["train_loss"], color=TRAIN, label="training", **curve(epochs))
    mark_cycles(axes, epochs, "cycle")
    labelled(axes, "epoch", "cross-entropy (nats)")
    legend_over(axes, "Training loss")


def _accuracy_at_size(axes: Axes, epochs: pd.DataFrame, macs: pd.Series | None) -> None:
    """One point for each size: the last epoch before the next cycle, as in the paper."""
    across = 100 * epochs["sparsity"] if macs is None else macs
    every = pd.DataFrame({"x": across, "y": 100 * epochs["test_accuracy"]})
    last = every.groupby(epochs["cycles"]).last()
    axes.plot(every["x"], every["y"], ".", color="#BBBBBB", ms=4, label="each epoch")
    axes.plot(last["x"], last["y"], color=TEST, label="last epoch at this size", **curve(last))
    axes.margins(x=0.08, y=0.15)
    span = float(last["x"].max() - last["x"].min())
    for index in spaced(last["x"].tolist(), BESIDE * span if span else 1.0):
        x, y = last.iloc[index]
        axes.annotate(
            f"{y:.1f}",
            (x, y),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            fontsize=SMALL,
            path_effects=HALO,
        )
    x_of = "sparsity (% of all parameters)" if macs is None else "multiply-accumulates saved (%)"
    labelled(axes, x_of, "test accuracy (%)")
    legend_over(axes, "Accuracy against " + ("sparsity" if macs is None else "size"))


def mark_cycles(axes: Axes, epochs: pd.DataFrame, label: str) -> None:
    """A dotted line for each cycle, before the first epoch that counts it; many are short."""
    counted = epochs["cycles"].diff().fillna(epochs["cycles"]) > 0
    top, style = (1.0, ":") if counted.sum() <= FEW else (0.04, "-")
    for number, position in enumerate((epochs["epoch"][counted] - 0.5).tolist()):
        name = label if number == 0 else None
        axes.axvline(position, ymax=top, color=GREY, ls=style, lw=1, label=name, zorder=0)
