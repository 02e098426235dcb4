"""Is every picture drawn, and right?"""

import json
import statistics
import struct
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from recorded import BELOW_THE_END, grouped, record, stream

from refine.errors import ReportError
from refine.report import groups, plots, runs
from refine.report.cli import main
from refine.report.figure import draw_run
from refine.report.grid import colour_span, grid
from refine.report.grid import swept as chosen_two
from refine.report.panels import run_figure


def size(path: Path) -> tuple[int, int]:
    """Width and height that a PNG names in its header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("kind", ["curves", "pareto", "grid"])
def test_every_picture_is_drawn(swept, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    assert main([str(swept), "--plot", kind]) == 0
    assert capsys.readouterr().out == f"wrote {kind}.png\n"
    width, height = size(tmp_path / f"{kind}.png")
    assert width == 1050  # 3.5 inches
    assert 500 < height < 1500


def test_pictures_of_a_single_run_are_drawn(tmp_path):
    run = record(tmp_path / "run", 0.7)
    for kind in ("curves", "pareto"):
        path = tmp_path / "figures" / f"{kind}.png"
        assert main([str(run), "--plot", kind, "--output", str(path)]) == 0
        assert size(path)[0] == 1050


def test_a_picture_can_be_a_pdf(swept, tmp_path):
    path = tmp_path / "pareto.pdf"
    assert main([str(swept), "--plot", "pareto", "--output", str(path)]) == 0
    assert path.read_bytes().startswith(b"%PDF")


def test_curves_show_mean_and_band(swept):
    figure = plots.curves(grouped(swept))
    (axes,) = figure.axes
    first = axes.lines[0]
    assert list(first.get_xdata()) == [1, 2, 3, 4]
    end = 0.9 - 0.1 - 0.02 + 0.03  # the mean of the first group's two seeds
    assert first.get_ydata() == pytest.approx([100 * (end - below) for below in BELOW_THE_END])
    assert first.get_markevery() == [1]  # a cycle follows the second epoch
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(100 * (end - 0.4 - 0.01))
    assert band.max() == pytest.approx(100 * (end - 0.1 + 0.01))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "pruner.ratio=0.1 schedule.interval=2 (n=2)"


def test_pareto_shows_every_level_the_end_and_the_front(swept):
    axes = plots.pareto(grouped(swept)).axes[0]
    found = {line.get_xydata()[0].round(6).tolist()[0] for line in axes.lines if line.get_marker()}
    assert found >= {0, 15, 30}
    assert not [line for line in axes.lines if len(line.get_xdata()) == 3]  # no trajectories
    bars = axes.containers[0].lines[2][0].get_segments()[0]  # of the first group's end
    half = 12.70620474 * statistics.stdev([80, 82]) / 2**0.5
    assert bars[:, 1] == pytest.approx([81 - half, 81 + half])


def test_the_front_is_the_best_at_each_size():
    points = [plots.Point(*both) for both in ((0, 80), (20, 90), (50, 85), (50, 86), (90, 70))]
    assert plots.front([*points, plots.Point(60, 60)]) == [(20, 90), (50, 86), (90, 70)]


def test_what_cuts_nothing_is_a_line_without_cycles(swept):
    record_dense(swept / "dense")
    sparser = record(swept / "sparser", 0.6, pruner__ratio=0.5) / "summary.json"
    sparser.write_text(sparser.read_text().replace('"sparsity": 0.3', '"sparsity": 0.9'))
    pareto = plots.pareto(grouped(swept))
    (line,) = [line for line in pareto.axes[0].lines if set(line.get_ydata()) == {95.0}]
    assert line.get_linestyle() == "--"
    labels = [text.get_text() for text in pareto.legends[0].get_texts()]
    assert labels[-1] == "front: the best mean at this sparsity or above"
    assert sum("nothing cut" in " ".join(label.split()) for label in labels) == 1
    curves = plots.curves(grouped(swept)).axes[0]
    assert [bool(line.get_markevery()) for line in curves.lines].count(False) == 1


def record_dense(directory: Path) -> Path:
    """A run with cycles that cut nothing, as control=dense makes it."""
    run = record(directory, 0.95, pruner__importance="none")
    table = pd.read_csv(run / "metrics.csv").assign(sparsity=0.0, prunable_sparsity=0.0)
    table.to_csv(run / "metrics.csv", index=False)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"sparsity": 0.0}))
    return run


def test_no_interval_and_no_axis_goes_above_100(tmp_path):
    for seed, accuracy in ((1, 0.9), (2, 0.98)):
        record(tmp_path / str(seed), accuracy, seed)
    axes = plots.pareto(grouped(tmp_path)).axes[0]
    (bars,) = (container.lines[2][0].get_segments()[0] for container in axes.containers)
    assert bars[:, 1].max() == pytest.approx(100)
    assert axes.get_ylim()[1] < 106


def test_more_groups_than_colours_are_still_told_apart(tmp_path):
    for number in range(21):
        record(tmp_path / str(number), 0.7, pruner__ratio=(number + 1) / 100)
    lines = plots.curves(grouped(tmp_path)).axes[0].lines
    styles = {(to_hex(line.get_color()), line.get_linestyle()) for line in lines}
    assert len(styles) == 21


def test_grid_shows_mean_and_number_in_every_cell(swept):
    axes = grid(grouped(swept), "pruner.ratio", "schedule.interval").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["2", "10"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "81.00 ± 1.41\nn=2",
        (1, 0): "71.00 ± 1.41\nn=2",
        (0, 1): "73.00 ± 1.41\nn=2",
        (1, 1): "no run",
    }
    assert [patch.get_hatch() for patch in axes.patches] == ["////"]


def test_a_grid_names_the_runs_that_failed_in_their_cell(swept, tmp_path):
    lost = [record(swept / f"lost-{n}", 0.1, n, pruner__ratio=0.3) for n in (1, 2, 3)]
    for run in lost[:2]:
        (run / "summary.json").write_text(json.dumps({"status": "failed", "reason": "no memory"}))
    (lost[2] / "summary.json").unlink()
    found, _ = runs.find([swept])
    finished, left_out = runs.read(found)
    grouping = groups.group(finished)
    axes = grid(grouping, "pruner.ratio", "schedule.interval", left_out).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2", "0.3"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells[2, 0] == "2 failed, 1 unfinished"
    assert main([str(swept), "--plot", "grid", "--output", str(tmp_path / "grid.svg")]) == 0
    assert "2 failed, 1 unfinished" in (tmp_path / "grid.svg").read_text()


def test_noise_does_not_get_all_the_colours():
    cells = {("a", "a"): [97.0, 98.0], ("a", "b"): [97.2, 98.2]}  # standard errors of 0.5
    low, high = colour_span(cells)
    assert high - low == pytest.approx(3)
    assert (low + high) / 2 == pytest.approx(97.6)
    assert colour_span({("a", "a"): [99.9], ("a", "b"): [99.8]}) == pytest.approx((99, 100))
    assert colour_span({("a", "a"): [20.0], ("a", "b"): [90.0]}) == (20, 90)


def test_grid_of_other_than_two_settings_says_so(swept, capsys):
    record(swept / "more", 0.5, trainer__epochs=5)
    assert main([str(swept), "--plot", "grid"]) == 1
    error = capsys.readouterr().err
    assert "exactly two settings that differ; here 3 do" in error
    assert "pruner.ratio, schedule.interval, trainer.epochs" in error
    assert main([str(swept / "more"), "--plot", "grid"]) == 1
    assert "here 0 do" in capsys.readouterr().err


def test_grid_of_chosen_settings_names_what_it_pools(swept):
    more = {"pruner__ratio": 0.1, "schedule__interval": 2, "trainer__epochs": 5}
    record(swept / "more", 0.84, 3, **more)
    grouping = grouped(swept)
    chosen = chosen_two(grouping, ["schedule.interval", "pruner.ratio"])
    axes = grid(grouping, *chosen).axes[0]
    assert axes.get_xlabel() == "schedule.interval"
    assert axes.get_title().splitlines()[0] == "pooled over trainer.epochs"
    assert "82.00 ± 2.00\nn=3" in [text.get_text() for text in axes.texts]
    for wrong in (["pruner.ratio", "seed"], ["pruner.ratio", "pruner.ratio"]):
        with pytest.raises(ReportError, match="--grid"):
            chosen_two(grouping, wrong)


def test_panels_are_drawn_in_each_run_even_if_unfinished(tmp_path, capsys):
    for name in ("a", "b", "c"):
        record(tmp_path / name, 0.7)
    (tmp_path / "b" / "summary.json").unlink()
    (tmp_path / "c" / "metrics.csv").write_text("")
    assert main([str(tmp_path), "--plot", "panels"]) == 0
    out, error = capsys.readouterr()
    drawn = [tmp_path / name / "refinement.png" for name in ("a", "b")]
    assert out.splitlines() == [f"wrote {path}" for path in drawn]
    assert all(size(path) == (2100, 1560) for path in drawn)
    assert error == f"left out: {tmp_path / 'c'}: metrics.csv has no rows\n"
    assert main([str(tmp_path / "c"), "--plot", "panels"]) == 1


def panels(run: Path) -> dict:
    return {axes.get_title(): axes for axes in run_figure(pd.read_csv(run / "metrics.csv")).axes}


def test_a_stream_of_tasks_has_two_panels_more(tmp_path):
    run = stream(tmp_path / "run", tasks=3)
    alone = panels(record(tmp_path / "alone", 0.7))
    assert set(panels(run)) - set(alone) == {"Accuracy by task", "Average accuracy and forgetting"}
    assert len(alone) == 4
    assert size(draw_run(run)) == (3150, 1560)


def test_each_task_has_a_line_from_its_first_epoch_on(tmp_path):
    axes = panels(stream(tmp_path / "run", tasks=3))["Accuracy by task"]
    assert [list(line.get_xdata()) for line in axes.lines] == [
        [*range(1, 7)],
        [*range(3, 7)],
        [5, 6],
    ]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([90, 90, 65, 65, 65, 65])
    assert list(axes.lines[2].get_ydata()) == pytest.approx([90, 90])
    (changes,) = axes.collections
    assert [segment[0, 0] for segment in changes.get_segments()] == [2.5, 4.5]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["task 1", "task 2", "task 3"]


def test_average_accuracy_and_forgetting_are_percentages(tmp_path):
    run = stream(tmp_path / "run", tasks=2, forgotten=-0.06)
    axes = panels(run)["Average accuracy and forgetting"]
    average, forgotten = axes.lines
    assert list(average.get_ydata()) == pytest.approx([90, 90, 93, 93])
    assert list(forgotten.get_ydata()) == pytest.approx([0, 0, -6, -6])
    assert axes.get_ylim()[0] < -6
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["average accuracy", "forgetting", "next task"]


@pytest.mark.parametrize("tasks", [1, 5, 6, 50])
def test_many_tasks_are_told_apart(tmp_path, tasks):
    run = stream(tmp_path / "run", tasks)
    found = panels(run)
    lines = found["Accuracy by task"].lines
    assert len({to_hex(line.get_color()) for line in lines}) == len(lines) == tasks
    assert ("" in found) == (tasks > 5)  # the colour bar
    assert size(draw_run(run)) == (3150, 1560)
