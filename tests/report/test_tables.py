"""What do tables look like, in every format?"""

import csv
import re

import pytest
from recorded import record

from refine.report.cli import main

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
    assert main([str(two), "--cycles", "--format", "csv"]) == 0
    read = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    last = [row for row in read if row["cycles"] == "end"]
    assert [row["pruner.ratio"] for row in last] == ["0.1", "0.2"]
    assert [float(row["test_accuracy_mean"]) for row in last] == [pytest.approx(0.72), 0.8]
    assert [row["n"] for row in last] == ["3", "1"]
    assert last[1]["test_accuracy_sd"] == ""


def test_markdown_can_be_read_back(two, capsys):
    assert main([str(two), "--cycles", "--format", "markdown"]) == 0
    caption, blank, *lines = capsys.readouterr().out.splitlines()
    assert "95 % t interval" in caption
    assert not blank
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["group", "cycles", "n", "test accuracy", "sd", "sparsity", "sd"]
    assert {len(row) for row in cells} == {7}
    assert ends(cells) == ENDS


def test_latex_can_be_read_back(two, capsys):
    assert main([str(two), "--cycles", "--format", "latex"]) == 0
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
    assert main([str(two), "--cycles"]) == 0
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
