"""Does refine-report say what the files of recorded runs say, and name what it leaves out?"""

import csv
import json
import os
import re
import statistics
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats
import yaml
from matplotlib.colors import to_hex

from refine.errors import ReportError
from refine.report import groups, plots, runs
from refine.report.cli import main

CONFIG = {
    "defaults": ["schema", "_self_"],
    "hydra": {"job": {"name": "refine-run"}},
    "seed": 1,
    "device": "auto",
    "output_dir": None,
    "save_model": True,
    "model": {"_target_": "refine.models.simple_cnn"},
    "dataset": {"_target_": "refine.datasets.digits", "root": "data"},
    "pruner": {"importance": "magnitude", "ratio": 0.15, "downscale_factor": 0.98},
    "schedule": {"_target_": "refine.schedule.Periodic", "interval": 2},
    "trainer": {"epochs": 4, "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001}},
}
HEADER = (
    "epoch,train_loss,train_accuracy,test_loss,test_accuracy,sparsity,prunable_sparsity,"
    "active_parameters,total_parameters,learning_rate,cycles,epoch_seconds"
)
CYCLES, SPARSITIES = (0, 0, 1, 1), (0.0, 0.0, 0.15, 0.15)
BELOW_THE_END = (0.4, 0.3, 0.2, 0.1)  # each epoch's test accuracy, below that of the summary


def record(directory: Path, accuracy: float, seed: int = 1, **settings) -> Path:
    """A finished run of four epochs and a cycle after the second, with a cycle after the last
    that brings it to ``accuracy`` and a sparsity of 0.3. ``pruner__ratio`` is pruner.ratio."""
    config = json.loads(json.dumps(CONFIG | {"seed": seed}))
    for name, value in settings.items():
        *path, key = name.split("__")
        node = config
        for part in path:
            node = node[part]
        node[key] = value
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    rows = [HEADER]
    for epoch, (cycles, sparsity, below) in enumerate(
        zip(CYCLES, SPARSITIES, BELOW_THE_END, strict=True), start=1
    ):
        rows.append(
            f"{epoch},0.5,0.9,0.6,{accuracy - below},{sparsity},{sparsity},85,100,0.001,{cycles},1"
        )
    (directory / "metrics.csv").write_text("\n".join(rows) + "\n")
    summary = {"status": "finished", "reason": None, "epochs": 4, "cycles": 2}
    summary |= {"test_accuracy": accuracy, "sparsity": 0.3}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def sweep(directory: Path, **settings) -> None:
    """Three seeds with a mean of 0.72 and a standard deviation of 0.02."""
    for seed, accuracy in ((1, 0.70), (2, 0.72), (3, 0.74)):
        record(directory / str(seed), accuracy, seed, **settings)


def grouped(directory: Path) -> groups.Grouping:
    found, foreign = runs.find([directory])
    finished, left_out = runs.read(found)
    assert not foreign
    assert not left_out
    return groups.group(finished)


def names(directory: Path) -> list[str]:
    return [group.name for group in grouped(directory).groups]


def rows(capsys, *arguments) -> list[dict]:
    """The rows that the command writes as JSON."""
    assert main([*map(str, arguments), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


# Which runs belong together?


def test_the_seed_and_where_a_run_was_do_not_tell_runs_apart(tmp_path):
    record(tmp_path / "a", 0.7, seed=1)
    elsewhere = {"device": "cuda", "output_dir": "b", "save_model": False}
    told = {"tracker": {"_target_": "refine.tracking.mlflow.MLflow", "uri": "sqlite:///x.db"}}
    record(tmp_path / "b", 0.8, seed=2, dataset__root="/elsewhere", **elsewhere, **told)
    (group,) = grouped(tmp_path).groups
    assert group.name == "all runs"
    assert [run.seed for run in group.runs] == [1, 2]


def test_groups_are_named_by_what_differs_and_sorted_by_number(tmp_path):
    for ratio in (0.1, 0.05):
        for interval in (10, 2):
            for seed in (1, 2):
                place = tmp_path / f"{ratio},{interval},{seed}"
                record(place, 0.7, seed, pruner__ratio=ratio, schedule__interval=interval)
    assert names(tmp_path) == [
        "pruner.ratio=0.05 schedule.interval=2",
        "pruner.ratio=0.05 schedule.interval=10",
        "pruner.ratio=0.1 schedule.interval=2",
        "pruner.ratio=0.1 schedule.interval=10",
    ]
    assert [len(group.runs) for group in grouped(tmp_path).groups] == [2, 2, 2, 2]


def test_settings_of_different_nodes_are_all_named_even_if_they_go_together(tmp_path):
    record(tmp_path / "a", 0.7, pruner__ratio=0.1, schedule__interval=1)
    record(tmp_path / "b", 0.7, pruner__ratio=0.2, schedule__interval=2)
    assert names(tmp_path) == [
        "pruner.ratio=0.1 schedule.interval=1",
        "pruner.ratio=0.2 schedule.interval=2",
    ]


def test_what_one_choice_sets_along_is_told_once(tmp_path, capsys):
    record(tmp_path / "a", 0.7)
    record(tmp_path / "b", 0.7, pruner__importance="random")
    record(tmp_path / "c", 0.7, pruner__importance="none", pruner__downscale_factor=1.0)
    assert names(tmp_path) == [
        "pruner.importance=magnitude",
        "pruner.importance=none",
        "pruner.importance=random",
    ]
    assert main([str(tmp_path), "--format", "markdown"]) == 0
    told = "With pruner.importance differs pruner.downscale_factor."
    assert told in capsys.readouterr().out


def test_a_kind_names_a_group_before_its_arguments(tmp_path):
    record(tmp_path / "a", 0.7)
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
    record(tmp_path / "b", 0.7, trainer__optimizer=sgd, trainer__epochs=5)
    grouping = grouped(tmp_path)
    assert [group.name for group in grouping.groups] == [
        "trainer.optimizer=Adam",
        "trainer.optimizer=SGD",
    ]
    momentum = [group.settings["trainer.optimizer.momentum"] for group in grouping.groups]
    assert momentum == ["unset", "0.9"]


def test_what_does_not_follow_from_another_setting_is_told(tmp_path):
    record(tmp_path / "a", 0.7, pruner__ratio=0.1)
    record(tmp_path / "b", 0.7, pruner__ratio=0.2)
    record(tmp_path / "c", 0.7, pruner__ratio=0.3, pruner__importance="random")
    assert names(tmp_path) == [
        "pruner.importance=magnitude pruner.ratio=0.1",
        "pruner.importance=magnitude pruner.ratio=0.2",
        "pruner.importance=random pruner.ratio=0.3",
    ]


def test_the_header_that_makes_a_configuration_run_again_is_no_setting(tmp_path):
    record(tmp_path / "a", 0.7, hydra={"run": {"dir": "a"}}, defaults=["schema"])
    record(tmp_path / "b", 0.7)
    assert names(tmp_path) == ["all runs"]


def test_import_paths_are_told_in_full_where_their_last_words_agree(tmp_path):
    record(tmp_path / "a", 0.7, model={"_target_": "mine.Net"})
    record(tmp_path / "b", 0.7, model={"_target_": "yours.Net"})
    assert names(tmp_path) == ["model=mine.Net", "model=yours.Net"]


def test_one_and_one_point_zero_are_one_value(tmp_path):
    record(tmp_path / "a", 0.7, seed=1, pruner__downscale_factor=1)
    record(tmp_path / "b", 0.7, seed=2, pruner__downscale_factor=1.0)
    assert names(tmp_path) == ["all runs"]


# What do they say together?


def test_statistics_by_hand(tmp_path, capsys):
    sweep(tmp_path)
    first, second, end = rows(capsys, tmp_path)
    assert [row["cycles"] for row in (first, second, end)] == [0, 1, "end"]
    assert {row["n"] for row in (first, second, end)} == {3}
    # The last epoch of a level is 0.3 and 0.1 below the end, which is the summary's.
    assert first["test_accuracy_mean"] == pytest.approx(0.72 - 0.3)
    assert second["test_accuracy_mean"] == pytest.approx(0.72 - 0.1)
    assert end["test_accuracy_mean"] == pytest.approx(0.72)
    assert end["test_accuracy_sd"] == pytest.approx(0.02)
    half = 4.30265273 * 0.02 / 3**0.5  # Student's t for 97.5 % and 2 degrees of freedom
    assert end["test_accuracy_t95_low"] == pytest.approx(0.72 - half)
    assert end["test_accuracy_t95_high"] == pytest.approx(0.72 + half)
    assert [row["sparsity_mean"] for row in (first, second, end)] == [0.0, 0.15, 0.3]
    assert end["sparsity_sd"] == 0.0
    assert end["sparsity_t95_low"] == end["sparsity_t95_high"] == 0.3


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_interval_agrees_with_scipy_stats(n):
    values = [0.7 + 0.01 * (7 * number % 11) for number in range(n)]
    spread = groups.spread(values)
    error = statistics.stdev(values) / n**0.5
    low, high = scipy.stats.t.interval(0.95, n - 1, statistics.mean(values), error)
    assert spread.mean - spread.half_width == pytest.approx(low, abs=1e-12)
    assert spread.mean + spread.half_width == pytest.approx(high, abs=1e-12)
    assert spread.deviation == pytest.approx(scipy.stats.tstd(values), abs=1e-12)


def test_one_run_has_no_deviation(tmp_path, capsys):
    record(tmp_path / "a", 0.7)
    end = rows(capsys, tmp_path)[-1]
    assert end["test_accuracy_mean"] == 0.7
    assert end["test_accuracy_sd"] is None
    assert end["test_accuracy_t95_low"] is None
    main([str(tmp_path), "--format", "markdown"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "| all runs | end | 1 | 70.00 | \N{EN DASH} | 30.00 | \N{EN DASH} |"
    )


def test_a_level_that_only_some_runs_reached_counts_those(tmp_path, capsys):
    record(tmp_path / "a", 0.7, seed=1)
    path = record(tmp_path / "b", 0.8, seed=2) / "metrics.csv"
    never = [line.replace(",1,1", ",0,1") for line in path.read_text().splitlines()]
    path.write_text("\n".join(never) + "\n")
    assert [row["n"] for row in rows(capsys, tmp_path)] == [2, 1, 2]


# Paired differences


@pytest.fixture
def controls(tmp_path):
    sweep(tmp_path / "magnitude")
    for seed, accuracy in ((1, 0.71), (2, 0.75), (3, 0.73), (4, 0.1)):
        record(tmp_path / "random" / str(seed), accuracy, seed, pruner__importance="random")
    none = {"pruner__importance": "none", "pruner__downscale_factor": 1.0}
    record(tmp_path / "none", 0.9, 3, **none)
    return tmp_path


def test_differences_are_paired_by_seed(controls, capsys):
    none, random = rows(capsys, controls, "--paired", "pruner.importance=magnitude")
    assert random["group"] == "pruner.importance=random"
    assert random["pairs"] == 3  # seed 4 has no partner
    # +0.01, +0.03 and -0.01
    assert random["difference_mean"] == pytest.approx(0.01)
    assert random["difference_sd"] == pytest.approx(0.02)
    half = 4.30265273 * 0.02 / 3**0.5
    assert random["difference_t95_low"] == pytest.approx(0.01 - half)
    assert random["difference_t95_high"] == pytest.approx(0.01 + half)
    assert none["pairs"] == 1
    assert none["difference_mean"] == pytest.approx(0.16)
    assert none["difference_sd"] is None


def test_groups_without_a_common_seed_have_no_difference(tmp_path, capsys):
    record(tmp_path / "a", 0.7, seed=1)
    record(tmp_path / "b", 0.8, seed=2, pruner__ratio=0.3)
    (row,) = rows(capsys, tmp_path, "--paired", "pruner.ratio=0.3")
    assert row["pairs"] == 0
    assert row["difference_mean"] is None


def test_reference_is_chosen_by_number_or_by_what_goes_along(controls):
    chosen = groups.select(grouped(controls).groups, "pruner.downscale_factor=1.0")
    assert chosen.name == "pruner.importance=none"


@pytest.mark.parametrize("wanted", ["pruner.importance=l1", "pruner.downscale_factor=0.98", "x"])
def test_reference_that_is_not_one_group_is_answered_with_the_groups(controls, capsys, wanted):
    assert main([str(controls), "--paired", wanted]) == 1
    out, error = capsys.readouterr()
    assert not out
    assert len(error.splitlines()) == 1
    for name in ("magnitude", "none", "random"):
        assert f"pruner.importance={name}" in error


def test_a_seed_twice_is_noted_and_cannot_be_paired(tmp_path, capsys):
    record(tmp_path / "a", 0.7, seed=5)
    record(tmp_path / "b", 0.8, seed=5)
    record(tmp_path / "c", 0.8, seed=5, pruner__ratio=0.3)
    assert main([str(tmp_path)]) == 0
    assert "pruner.ratio=0.15 has several runs of seed 5" in capsys.readouterr().err
    assert main([str(tmp_path), "--paired", "pruner.ratio=0.3"]) == 1
    assert "pairs need one" in capsys.readouterr().err


# What is left out?


def edit(name: str, old: str, new: str):
    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new))

    return change


def cut_off(characters: int):
    def change(run: Path) -> None:
        text = (run / "metrics.csv").read_text()
        (run / "metrics.csv").write_text(text[:-characters])

    return change


BROKEN = {
    "unfinished": (lambda run: (run / "summary.json").unlink(), "unfinished"),
    "failed": (
        edit("summary.json", '"finished", "reason": null', '"failed", "reason": "loss is nan"'),
        "failed: loss is nan",
    ),
    "interrupted": (edit("summary.json", "finished", "interrupted"), "interrupted"),
    "cut JSON": (edit("summary.json", "}", ""), "summary.json is not valid JSON"),
    "JSON of no run": (edit("summary.json", "status", "state"), "no status"),
    "no accuracy": (edit("summary.json", "test_accuracy", "x"), "has no test_accuracy"),
    "nan": (edit("summary.json", '"test_accuracy": 0.1', '"test_accuracy": NaN'), "is nan"),
    "no YAML": (edit("config.yaml", "seed: 9", "seed: [9"), "config.yaml is not valid YAML"),
    "no seed": (edit("config.yaml", "seed: 9", "sead: 9"), "names no seed"),
    "no config": (lambda run: (run / "config.yaml").unlink(), "no config.yaml"),
    "cut in the last line": (cut_off(4), "metrics.csv is truncated"),
    "cut before its end": (cut_off(1), "metrics.csv is truncated"),
    "fewer values": (edit("metrics.csv", ",1,1\n", ",1\n"), "more or fewer values"),
    "a word": (edit("metrics.csv", "3,0.5,0.9,0.6,", "3,0.5,0.9,0.6,x"), "not a number"),
    "no column": (edit("metrics.csv", ",test_accuracy", ",accuracy"), "has no test_accuracy"),
    "fewer rows": (edit("metrics.csv", "\n2,", "\n1,"), "does not hold the epochs 1 to 4"),
    "empty": (lambda run: (run / "metrics.csv").write_text(""), "metrics.csv has no rows"),
    "no rows": (lambda run: (run / "metrics.csv").write_text(HEADER + "\n"), "has no rows"),
    "no metrics": (lambda run: (run / "metrics.csv").unlink(), "there is no metrics.csv"),
    "no text": (lambda run: (run / "metrics.csv").write_bytes(b"\xff\xfe\x00"), "is not text"),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_named_with_the_reason_and_left_out(tmp_path, capsys, damage, reason):
    sweep(tmp_path / "good")
    damage(record(tmp_path / "broken", 0.1, seed=9))
    assert main([str(tmp_path), "--format", "json"]) == 0
    out, error = capsys.readouterr()
    end = json.loads(out)["rows"][-1]
    assert (end["n"], end["test_accuracy_mean"]) == (3, pytest.approx(0.72))
    (line,) = error.splitlines()
    assert line.startswith(f"left out: {tmp_path / 'broken'}: ")
    assert reason in line


def test_only_the_topmost_directory_without_a_run_is_named(tmp_path, capsys):
    record(tmp_path / "deep" / "down" / "run", 0.7)
    (tmp_path / "deep" / "down" / "run" / "checkpoints").mkdir()
    (tmp_path / "notes" / "old").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"left out: {tmp_path / 'notes'}: holds no run\n"


def test_links_are_followed_but_not_round_in_a_circle(tmp_path):
    run = record(tmp_path / "elsewhere" / "a", 0.7)
    (tmp_path / "chosen" / "inner").mkdir(parents=True)
    (tmp_path / "chosen" / "link").symlink_to(run)
    (tmp_path / "chosen" / "inner" / "again").symlink_to(tmp_path / "chosen")
    found, foreign = runs.find([tmp_path / "chosen"])
    assert found == [tmp_path / "chosen" / "link"]
    assert list(foreign) == [tmp_path / "chosen" / "inner"]


def test_a_run_that_has_only_begun_is_unfinished(tmp_path, capsys):
    record(tmp_path / "a", 0.7)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.log").touch()
    assert main([str(tmp_path)]) == 0
    assert f"{tmp_path / 'b'}: unfinished" in capsys.readouterr().err


def test_if_nothing_is_left_that_is_an_error(tmp_path, capsys):
    (record(tmp_path / "a", 0.7) / "summary.json").unlink()
    (tmp_path / "b").mkdir()
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    out, error = capsys.readouterr()
    assert not out
    assert error.splitlines() == [
        f"left out: {tmp_path / 'b'}: holds no run",
        f"left out: {tmp_path / 'a'}: unfinished: there is no summary.json",
        "refine-report: there is no finished run in what was given",
    ]


def test_a_run_given_twice_counts_once(tmp_path, capsys):
    run = record(tmp_path / "a", 0.7)
    (tmp_path / "link").symlink_to(run)
    places = (tmp_path, run, run / ".." / "a", tmp_path / "link")
    assert rows(capsys, *places)[-1]["n"] == 1


def test_what_is_no_directory_is_an_error(tmp_path, capsys):
    run = record(tmp_path / "a", 0.7)
    assert main([str(run), str(tmp_path / "missing")]) == 1
    assert capsys.readouterr().err == f"refine-report: {tmp_path / 'missing'} does not exist\n"
    assert main([str(run / "metrics.csv")]) == 1
    assert "is not a directory" in capsys.readouterr().err


# Formats


@pytest.fixture
def two(tmp_path):
    sweep(tmp_path / "runs" / "a", pruner__ratio=0.1)
    record(tmp_path / "runs" / "b", 0.8, pruner__ratio=0.2)
    return tmp_path / "runs"


# Group, cycles, n, test accuracy and sparsity in per cent, as they are rounded for people.
ENDS = [["pruner.ratio=0.1", "end", "3", "72.00", "30.00"]]
ENDS += [["pruner.ratio=0.2", "end", "1", "80.00", "30.00"]]


def ends(cells: list[list[str]]) -> list[list[str]]:
    """The rows of the end, of cells as they are for people."""
    filled, group = [], ""
    for row in cells:
        group = row[0] or group
        filled.append([group, *row[1:]])
    return [[*row[:3], row[3].split()[0], row[5].split()[0]] for row in filled if row[1] == "end"]


def test_csv_can_be_read_back(two, capsys):
    assert main([str(two), "--format", "csv"]) == 0
    read = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    last = [row for row in read if row["cycles"] == "end"]
    assert [row["pruner.ratio"] for row in last] == ["0.1", "0.2"]
    assert [float(row["test_accuracy_mean"]) for row in last] == [pytest.approx(0.72), 0.8]
    assert [row["n"] for row in last] == ["3", "1"]
    assert last[1]["test_accuracy_sd"] == ""


def test_markdown_can_be_read_back(two, capsys):
    assert main([str(two), "--format", "markdown"]) == 0
    caption, blank, *lines = capsys.readouterr().out.splitlines()
    assert "95 % t interval" in caption
    assert not blank
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["group", "cycles", "n", "test accuracy", "sd", "sparsity", "sd"]
    assert {len(row) for row in cells} == {7}
    assert ends(cells) == ENDS


def test_latex_can_be_read_back(two, capsys):
    assert main([str(two), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert r"95 \% t interval" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if "&" in line]
    assert all(line.endswith(r"\\") for line in lines)
    cells = [[cell.strip() for cell in line.removesuffix(r"\\").split("&")] for line in lines]
    assert {len(row) for row in cells} == {7}
    assert ends(cells) == ENDS
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_latex_escapes_names_and_writes_minus_signs(tmp_path, capsys):
    record(tmp_path / "a", 0.8)
    record(tmp_path / "b", 0.7, pruner__importance="a_b&50%")
    main([str(tmp_path), "--paired", "pruner.importance=magnitude", "--format", "latex"])
    assert r"pruner.importance=a\_b\&50\% & 1 & $-$10.00 &" in capsys.readouterr().out


def test_table_on_the_terminal(two, capsys):
    assert main([str(two)]) == 0
    out = capsys.readouterr().out
    cells = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["end", "3", "72.00 ± 4.97", "2.00", "30.00 ± 0.00", "0.00"] in cells
    assert ["pruner.ratio=0.2", "0", "1", "50.00", *["\N{EN DASH}", "0.00", "\N{EN DASH}"]] in cells
    assert "95 % t interval" in " ".join(out.split())


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex", "json"])
def test_output_is_what_the_terminal_would_show(two, tmp_path, capsys, form):
    main([str(two), "--format", form])
    shown = capsys.readouterr().out
    path = tmp_path / "new" / "folder" / "table.txt"
    assert main([str(two), "--format", form, "--output", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == shown
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert [file.name for file in path.parent.iterdir()] == ["table.txt"]


def test_output_that_cannot_be_written_is_an_error_of_one_line(two, tmp_path, capsys):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "table.txt", tmp_path):
        assert main([str(two), "--output", str(path)]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


# Pictures


def size(path: Path) -> tuple[int, int]:
    """Width and height that a PNG names in its header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.fixture
def swept(tmp_path):
    for ratio in (0.1, 0.2):
        for interval in (2, 10):
            for seed in (1, 2):
                if (ratio, interval) != (0.2, 10):
                    place = tmp_path / "sweep" / f"{ratio},{interval},{seed}"
                    accuracy = 0.9 - ratio - 0.01 * interval + 0.02 * seed
                    kinds = {"pruner__ratio": ratio, "schedule__interval": interval}
                    record(place, accuracy, seed, **kinds)
    return tmp_path / "sweep"


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


def test_pareto_shows_every_level_and_the_end(swept):
    figure = plots.pareto(grouped(swept))
    joined = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert len(joined) == 3
    assert list(joined[0].get_xdata()) == pytest.approx([0, 15, 30])
    assert list(joined[0].get_ydata()) == pytest.approx([51, 71, 81])
    bars = figure.axes[0].containers[2].lines[2][0].get_segments()[0]  # of the first group's end
    half = 12.70620474 * statistics.stdev([80, 82]) / 2**0.5
    assert bars[:, 1] == pytest.approx([81 - half, 81 + half])


def test_more_groups_than_colours_are_still_told_apart(tmp_path):
    for number in range(21):
        record(tmp_path / str(number), 0.7, pruner__ratio=(number + 1) / 100)
    lines = plots.curves(grouped(tmp_path)).axes[0].lines
    styles = {(to_hex(line.get_color()), line.get_linestyle()) for line in lines}
    assert len(styles) == 21


def test_grid_shows_mean_and_number_in_every_cell(swept):
    axes = plots.grid(grouped(swept), "pruner.ratio", "schedule.interval").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["2", "10"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    # Two runs with (0.2, 10) do not exist; their cell is empty.
    assert cells == {(0, 0): "81.00\nn=2", (1, 0): "71.00\nn=2", (0, 1): "73.00\nn=2"}


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
    chosen = plots.swept(grouping, ["schedule.interval", "pruner.ratio"])
    axes = plots.grid(grouping, *chosen).axes[0]
    assert axes.get_xlabel() == "schedule.interval"
    assert axes.get_title() == "pooled over trainer.epochs"
    assert "82.00\nn=3" in [text.get_text() for text in axes.texts]
    for wrong in (["pruner.ratio", "seed"], ["pruner.ratio", "pruner.ratio"]):
        with pytest.raises(ReportError, match="--grid"):
            plots.swept(grouping, wrong)


def test_panels_are_drawn_in_each_run_even_if_unfinished(tmp_path, capsys):
    for name in ("a", "b", "c"):
        record(tmp_path / name, 0.7)
    (tmp_path / "b" / "summary.json").unlink()
    (tmp_path / "c" / "metrics.csv").write_text("")
    assert main([str(tmp_path), "--plot", "panels"]) == 0
    out, error = capsys.readouterr()
    drawn = [tmp_path / name / "refinement.png" for name in ("a", "b")]
    assert out.splitlines() == [f"wrote {path}" for path in drawn]
    assert all(size(path) == (1400, 1000) for path in drawn)
    assert error == f"left out: {tmp_path / 'c'}: metrics.csv has no rows\n"
    assert main([str(tmp_path / "c"), "--plot", "panels"]) == 1


# The command


@pytest.mark.parametrize(
    "options",
    [
        ["--plot", "curves", "--format", "csv"],
        ["--plot", "curves", "--paired", "seed=1"],
        ["--grid", "a", "b"],
        ["--plot", "panels", "--output", "x.png"],
        ["--plot", "curves", "--output", "x.jpg"],
        ["--format", "xml"],
    ],
)
def test_options_that_do_not_fit_are_answered_in_two_lines(two, capsys, options):
    with pytest.raises(SystemExit) as left:
        main([str(two), *options])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "refine.report", *map(str, arguments)]


def test_the_command_leaves_its_exit_code_and_no_traceback(two):
    done = subprocess.run(command(two, "--format", "csv"), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("group,pruner.ratio,cycles,n,")
    assert not done.stderr
    failed = subprocess.run(command(two / "missing"), capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == f"refine-report: {two / 'missing'} does not exist\n"


def test_help_names_every_option():
    text = subprocess.run(command("--help"), capture_output=True, text=True, check=True).stdout
    for option in ("--format", "--paired", "--plot", "--grid", "--output"):
        assert f"  {option}" in text
    assert text.count("\n  refine-report ") == 5


def test_a_reader_that_has_seen_enough_is_no_error(two):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(two), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_the_signs_gets_the_figures(two):
    poor = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command(two), capture_output=True, text=True, env=poor)
    assert (done.returncode, done.stderr) == (0, "")
    assert "72.00 ? 4.97" in done.stdout


@pytest.mark.parametrize("kind", [None, "curves", "pareto", "grid", "panels"])
def test_reports_import_neither_torch_nor_hydra(swept, tmp_path, kind):
    arguments = [str(swept)]
    if kind:
        arguments += ["--plot", kind]
    program = (
        "import sys; from refine.report.cli import main; code = main(sys.argv[1:]); "
        "print(*(name for name in ('torch', 'hydra', 'omegaconf', 'matplotlib.pyplot') "
        "if name in sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "\n")


def test_a_table_needs_no_matplotlib_and_no_pandas(two):
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "refine.report", str(two)],
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert "yaml" in imported  # the list is one
    assert not imported & {"torch", "hydra", "matplotlib", "pandas", "scipy.stats"}
