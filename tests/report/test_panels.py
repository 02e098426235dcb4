"""Does the figure of a run say what each cut cost, and does nothing in it hide anything?"""

import itertools
import json
from pathlib import Path

import matplotlib.text
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from recorded import record, stream

from refine.report.cli import main
from refine.report.figure import draw_run, drawn, title_of
from refine.report.panels import run_figure

# What README's run of 12 epochs measured at its cycles.
COSTS = ((2, 0.9639, 0.4278, 0.7861), (4, 0.98, 0.9, 0.97))


def cut_run(directory: Path, macs: tuple[int, ...] = ()) -> Path:
    """A recorded run with cycles after its second and its last epoch, and what these cost."""
    run = record(directory, 0.97)
    names = ("epoch", "test_accuracy_before", "test_accuracy_after_cut")
    rows = [
        dict(zip((*names, "test_accuracy_after_replay"), costs, strict=True)) | {"cycle": number}
        for number, costs in enumerate(COSTS, start=1)
    ]
    table = pd.DataFrame(rows)
    if macs:
        table["macs"] = macs
    table.to_csv(run / "cycles.csv", index=False)
    return run


def panel(figure, title: str):
    (axes,) = [axes for axes in figure.axes if axes.get_title() == title]
    return axes


def labels(axes) -> list[str]:
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_each_cut_and_what_it_costs_are_drawn(tmp_path):
    axes = panel(drawn(cut_run(tmp_path / "run")), "Accuracy")
    assert labels(axes) == ["training", "test", "just cut", "replayed"]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["just cut"].get_ydata()) == pytest.approx([42.78, 90])
    assert list(lines["replayed"].get_ydata()) == pytest.approx([78.61, 97])
    assert list(lines["just cut"].get_xdata()) == [2.5, 4.5]
    (drops,) = axes.collections
    assert drops.get_segments()[0][:, 1] == pytest.approx([42.78, 96.39])
    # The test accuracy goes on from where the replay has brought it.
    x, y = lines["test"].get_data()
    assert (list(x[2:5]), y[2], y[4]) == ([2.5, 2.5, 2.5], 96.39, pytest.approx(78.61))
    assert {text.get_text() for text in axes.texts} >= {"42.8"}


def test_without_costs_cycles_are_lines(tmp_path):
    axes = panel(drawn(record(tmp_path / "run", 0.9)), "Accuracy")
    assert labels(axes) == ["training", "test", "cycle"]


def test_two_sparsities_that_coincide_are_one_line(tmp_path):
    table = pd.read_csv(record(tmp_path / "run", 0.9) / "metrics.csv")
    assert len(panel(run_figure(table), "Sparsity").lines) == 1
    table["prunable_sparsity"] *= 1.5
    axes = panel(run_figure(table), "Sparsity")
    assert labels(axes) == ["of all parameters", "of prunable weights"]
    assert len(axes.lines) == 2


def test_channels_are_measured_in_multiply_accumulates(tmp_path):
    figure = drawn(cut_run(tmp_path / "run", macs=(600, 400)), dense_macs=1000)
    axes = panel(figure, "Size")
    assert labels(axes) == ["multiply-accumulates", "parameters"]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0, 0, 40, 40])
    assert panel(figure, "Accuracy against size").get_xlabel() == "multiply-accumulates saved (%)"
    # The share of 40 % is of the dense network's, which the summary of a finished run names.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | {"dense_macs": 800}))
    assert list(panel(drawn(tmp_path / "run"), "Size").lines[0].get_ydata())[-1] == 25


def test_the_title_names_the_run_its_network_data_and_pruner(tmp_path):
    run = record(tmp_path / "2026-11-26" / "10-20-30", 0.9)
    assert title_of(run) == "2026-11-26/10-20-30: simple_cnn on digits, weights cut by magnitude"
    assert drawn(run).get_suptitle() == title_of(run)
    channels = record(tmp_path / "$a$", 0.9)
    config = (
        (channels / "config.yaml").read_text().replace("pruner:", "pruner:\n  criterion: taylor")
    )
    (channels / "config.yaml").write_text(config)
    assert title_of(channels) == "$a$: simple_cnn on digits, channels cut by taylor"
    assert drawn(channels).get_suptitle().startswith(r"\$a\$")
    (run / "config.yaml").write_text("{")
    assert title_of(run) == "2026-11-26/10-20-30"


@pytest.mark.parametrize("kind", ["weights", "channels", "stream", "many"])
def test_nothing_is_clipped_hidden_or_too_small(tmp_path, kind):
    run = tmp_path / "a-run-with-a-name-that-is-longer-than-most-names-of-runs-are"
    if kind in ("stream", "many"):
        stream(run, tasks=5 if kind == "stream" else 12, forgotten=0.9)
    else:
        cut_run(run, macs=(600, 400) if kind == "channels" else ())
    figure = drawn(run, dense_macs=1000)
    FigureCanvasAgg(figure).draw()
    whole = figure.bbox
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 7
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= whole.x1
        assert box.y1 <= whole.y1
        if legend := axes.get_legend():
            assert not legend.get_window_extent().overlaps(axes.get_window_extent().padded(-1))
            assert not legend.get_window_extent().overlaps(axes.title.get_window_extent())
        beside = [text.get_window_extent() for text in axes.texts]
        for number, one in enumerate(beside):
            assert not any(one.overlaps(other) for other in beside[number + 1 :])


def test_many_levels_do_not_write_over_each_other(tmp_path):
    table = pd.read_csv(record(tmp_path / "run", 0.9) / "metrics.csv")
    many = pd.concat([table.iloc[[0]]] * 60, ignore_index=True)
    many = many.assign(epoch=many.index + 1, cycles=many.index, sparsity=1 - 0.93**many.index)
    figure = run_figure(many)
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in panel(figure, "Accuracy against sparsity").texts]
    assert len(boxes) > 5
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_formats_on_request(tmp_path, capsys):
    run = record(tmp_path / "run", 0.9)
    draw_run(run, "all")
    beginnings = {path.suffix: path.read_bytes()[:5] for path in run.glob("refinement.*")}
    assert beginnings == {".png": b"\x89PNG\r", ".pdf": b"%PDF-", ".svg": b"<?xml"}
    assert "weights cut by magnitude" in (run / "refinement.svg").read_text()  # as letters
    place = tmp_path / "paper" / "run.pdf"
    assert main([str(run), "--plot", "panels", "--output", str(place)]) == 0
    assert place.read_bytes()[:5] == b"%PDF-"
    record(tmp_path / "other", 0.9)
    assert main([str(tmp_path), "--plot", "panels", "--output", str(place)]) == 1
    assert "one run; here are 2" in capsys.readouterr().err
