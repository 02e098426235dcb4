"""Which runs are left out, and is the reason named?"""

import json
from pathlib import Path

import pytest
from recorded import HEADER, record, rows, sweep

from refine.report import runs
from refine.report.cli import main


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
