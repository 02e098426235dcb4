"""How runs ended: which is best, by what, and how sure that is."""

import csv
import json

import pytest
from recorded import record

from refine.report.cli import main


def recorded_more(directory, **more):
    """Adds to a run's summary."""
    path = directory / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.fixture
def ends(tmp_path, capsys):
    """Three ratios of three seeds; the best by validation is not the best by test."""
    for ratio, test, held_out, parameters in (
        (0.1, 0.80, 0.90, 900), (0.2, 0.85, 0.70, 800), (0.3, 0.97, 0.80, 700),
    ):  # fmt: skip
        for seed in (1, 2, 3):
            accuracy = min(1.0, test + 0.01 * seed)
            place = record(tmp_path / f"{ratio},{seed}", accuracy, seed, pruner__ratio=ratio)
            recorded_more(place, validation_accuracy=held_out, active_parameters=parameters,
                          macs=2e6 * (1 - ratio), seconds=60.0)  # fmt: skip

    def rows(*options):
        assert main([str(tmp_path), "--format", "csv", *options]) == 0
        return list(csv.DictReader(capsys.readouterr().out.splitlines()))

    return rows


def ratios(rows):
    return [row["pruner.ratio"] for row in rows]


def test_there_is_a_row_for_each_group_and_validation_decides(ends):
    rows = ends()
    assert ratios(rows) == ["0.1", "0.2", "0.3"]
    assert [row["best"] for row in rows] == ["True", "False", "False"]
    assert float(rows[1]["validation_accuracy_mean"]) == pytest.approx(0.7)
    assert rows[1]["active_parameters_mean"] == "800.0"
    assert float(rows[1]["macs_mean"]) == pytest.approx(1.6e6)
    assert rows[1]["seconds_mean"] == "60.0"
    assert "file_bytes_mean" not in rows[0]  # no run has saved its network


def test_sorted_the_best_is_first(ends):
    assert ratios(ends("--sort", "test")) == ["0.3", "0.2", "0.1"]
    assert ratios(ends("--sort", "validation")) == ["0.1", "0.3", "0.2"]
    assert ratios(ends("--sort", "macs")) == ["0.3", "0.2", "0.1"]
    assert ratios(ends("--best")) == ["0.1"]
    assert ratios(ends("--best", "--sort", "test")) == ["0.3"]


def test_what_nobody_recorded_is_no_key(ends, tmp_path, capsys):
    assert main([str(tmp_path), "--sort", "file_bytes"]) == 1
    assert capsys.readouterr().err.endswith("--sort file_bytes: no run has recorded it\n")


def test_no_interval_leaves_what_is_possible(ends, tmp_path, capsys):
    high = ends()[2]
    assert float(high["test_accuracy_t95_high"]) == 1.0
    assert float(high["test_accuracy_t95_low"]) < float(high["test_accuracy_mean"])
    main([str(tmp_path), "--format", "markdown"])
    assert ", 100.00] |" in capsys.readouterr().out


def test_two_runs_have_no_interval(tmp_path, capsys):
    for seed, accuracy in ((1, 0.90), (2, 0.99)):
        record(tmp_path / str(seed), accuracy, seed)
    main([str(tmp_path), "--format", "markdown"])
    out = capsys.readouterr().out
    assert "| all runs | 2 | 94.50 | 30.00 |" in out
    assert "from three runs on" in out
    assert "no validation images" not in out  # one group: nothing is compared


def test_without_validation_images_it_says_that_the_test_decides(two, capsys):
    main([str(two)])
    out = " ".join(capsys.readouterr().out.split())
    assert "Best by test; no validation images were held out: pruner.ratio=0.2." in out
