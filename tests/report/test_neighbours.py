"""Good runs are reported whatever lies beside them, and what they say is shown as text."""

import csv
import io
import json
import os
import time

import pytest
from recorded import record

from refine.plain import of_spreadsheet, plain
from refine.report.cli import main

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files")


def bomb():
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "seed: 1\n" + "\n".join(lines) + "\n"


def summary(**changes):
    def change(run):
        path = run / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def text(name, content):
    return lambda run: (run / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def instead(name, make):
    def change(run):
        (run / name).unlink()
        make(run / name)

    return change


def grown(name):
    def change(run):
        with (run / name).open("r+b") as file:
            file.truncate(2**33)

    return change


BAD = {
    "epochs 1e9": (summary(epochs=1e9), "epochs is 1000000000"),
    "epochs 1e300": (summary(epochs=1e300), "epochs is 1e+300"),
    "epochs of 400 digits": (summary(epochs=10**400), "not a number"),
    "cycles 0.5": (summary(cycles=0.5), "cycles is 0.5"),
    "cycles negative": (summary(cycles=-1), "cycles is -1"),
    "accuracy a list": (summary(test_accuracy=[1]), "not a number"),
    "accuracy NaN": (summary(test_accuracy=float("nan")), "test_accuracy is nan"),
    "sparsity null": (summary(sparsity=None), "sparsity is None"),
    "a reason with markup": (summary(status="failed", reason="[/docs]\x1b[2J\n"), "[/docs]\\x1b"),
    "a status that is a list": (summary(status=["x"]), "no reason recorded"),
    "summary a list": (text("summary.json", "[]"), "not a run's"),
    "summary nested": (text("summary.json", "[" * 100_000), "not valid JSON"),
    "summary not text": (text("summary.json", b"\xff\xfe"), "not text"),
    "config nested": (text("config.yaml", "[" * 20_000), "not valid YAML"),
    "config nested blocks": (text("config.yaml", "- " * 5_000), "not valid YAML"),
    "config recursive": (text("config.yaml", "seed: 1\na: &a [*a]\n"), "not valid YAML (line 2)"),
    "config a bomb": (text("config.yaml", bomb()), "not valid YAML (line 3)"),
    "config a tag": (text("config.yaml", "seed: !!python/name:os.system 1"), "not valid YAML"),
    "config no table": (text("config.yaml", "- 1"), "names no seed"),
    "config keys": (text("config.yaml", "seed: 1\n? [1, 2]\n: 3\n"), ""),
    "metrics empty": (text("metrics.csv", ""), "has no rows"),
    "metrics zeros": (text("metrics.csv", b"\x00" * 100 + b"\n"), ""),
    "metrics quotes": (text("metrics.csv", 'epoch,"\n'), ""),
    "metrics short": (text("metrics.csv", "epoch,cycles\n1\n"), "more or fewer values"),
    "metrics columns": (text("metrics.csv", "epoch,cycles\n1,0\n"), "has no test_accuracy"),
    "metrics words": (
        text("metrics.csv", "epoch,cycles,test_accuracy,sparsity\none,0,1,0\n"), "not a number",
    ),
    "summary a directory": (instead("summary.json", lambda path: path.mkdir()), "is no file"),
    "config a directory": (instead("config.yaml", lambda path: path.mkdir()), "is no file"),
    "metrics of gigabytes": (grown("metrics.csv"), "8,192 MiB"),
    "summary of gigabytes": (grown("summary.json"), "8,192 MiB"),
}  # fmt: skip
PIPES = {
    "summary a pipe": (instead("summary.json", os.mkfifo), "is no file"),
    "metrics a pipe": (instead("metrics.csv", os.mkfifo), "is no file"),
    "config a device": (instead("config.yaml", lambda p: p.symlink_to("/dev/zero")), "is no file"),
} if os.name != "nt" else {}  # fmt: skip


def test_bad_directories_are_left_out_by_name_and_quickly(tmp_path, capsys):
    for seed in (1, 2):
        record(tmp_path / f"good-{seed}", 0.7, seed=seed)
    for number, (change, _) in enumerate((BAD | PIPES).values()):
        change(record(tmp_path / f"bad-{number:02}", 0.7, seed=3 + number))
    started = time.monotonic()
    assert main([str(tmp_path), "--format", "json"]) == 0
    assert time.monotonic() - started < 20
    done = capsys.readouterr()
    rows = json.loads(done.out)["rows"]
    assert {row["n"] for row in rows} == {2}
    said = [line for line in done.err.splitlines() if "left out:" in line]
    assert len(said) == len(BAD | PIPES)
    for line, (name, (_, reason)) in zip(said, (BAD | PIPES).items(), strict=True):
        assert reason in line, name
        assert len(line) < 500
    assert "\x1b" not in done.err


@posix
def test_names_that_are_not_utf_8(tmp_path, capsys):
    strange = os.fsdecode(bytes(tmp_path) + b"/caf\xe9\x07")
    for seed in (1, 2):
        record(tmp_path / f"good-{seed}", 0.7, seed=seed)
    os.mkdir(strange)  # noqa: PTH102
    record(tmp_path / strange / "bad", 0.7)
    (tmp_path / strange / "bad" / "summary.json").write_text("{")
    assert main([str(tmp_path), "--output", str(tmp_path / strange / "table.csv")]) == 0
    done = capsys.readouterr()
    assert "caf\\udce9\\x07/bad: summary.json is not valid JSON" in done.err
    (done.out + done.err).encode()


def test_settings_are_shown_as_text(tmp_path, capsys):
    hostile = [
        r"$\badmacro{$", "=cmd()|' /C calc'!A0", "@SUM(1)", "-1", "+x", "[/x]", "[bold]a|b`c`<i>",
        "\x1b[31mred\nline", "ünï",
    ]  # fmt: skip
    for number, value in enumerate(hostile):
        record(tmp_path / str(number), 0.7, model___target_=value, dataset__root=value)
        record(tmp_path / f"{number}b", 0.7, model___target_=value, pruner__ratio=0.5)
    for kind in ("curves", "pareto", "grid"):
        picture = tmp_path / f"{kind}.png"
        assert main([str(tmp_path), "--plot", kind, "--output", str(picture)]) == 0, kind
        assert picture.stat().st_size > 1000
    capsys.readouterr()
    assert main([str(tmp_path), "--format", "csv"]) == 0
    cells = {row["model"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert cells == {
        r"$\badmacro{$", "'=cmd()|' /C calc'!A0", "'@SUM(1)", "-1", "'+x", "[/x]",
        "[bold]a|b`c`<i>", "\\x1b[31mred\\nline", "ünï",
    }  # fmt: skip
    for form in ("table", "markdown", "latex"):
        assert main([str(tmp_path), "--format", form]) == 0
        shown = capsys.readouterr().out
        assert "[/x]" in shown
        assert "\x1b" not in shown
    assert main([str(tmp_path), "--format", "markdown"]) == 0
    assert r"\[bold" not in (shown := capsys.readouterr().out)
    assert r"[bold]a\|b\`c\`&lt;i>" in shown


def test_a_picture_of_a_run_whose_columns_are_no_runs(tmp_path, capsys):
    record(tmp_path / "good", 0.7)
    for number, cell in enumerate(("{}", "[[1]]", "nothing", "[]")):
        run = record(tmp_path / f"bad-{number}", 0.7)
        lines = (run / "metrics.csv").read_text().splitlines()
        rows = [f"{lines[0]},task,average_accuracy,forgetting,task_accuracies"]
        rows += [f'{line},1,0.5,0,"{cell}"' for line in lines[1:]]
        (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert main([str(tmp_path), "--plot", "panels"]) == 0
    done = capsys.readouterr()
    assert done.out.count("wrote") == 1
    assert done.err.count("left out:") == 4


def test_ctrl_c_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(directories):
        raise KeyboardInterrupt

    monkeypatch.setattr("refine.report.runs.find", interrupted)
    assert main([str(tmp_path)]) == 130
    assert capsys.readouterr().err == "refine-report: interrupted\n"


def test_what_cannot_be_seen_is_escaped():
    assert plain("a\tb\x00\u202ec\ud800é") == "a\\tb\\x00\\u202ec\\ud800é"
    assert [of_spreadsheet(v) for v in (-1, 0.5, "-0.5", "-x", "1e5", "=1", None)] == [
        -1, 0.5, "-0.5", "'-x", "1e5", "'=1", None,
    ]  # fmt: skip


def test_a_report_replaces_only_reports(tmp_path, capsys):
    for seed in (1, 2):
        record(tmp_path / f"good-{seed}", 0.7, seed=seed)
    run = tmp_path / "good-1"
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    (tmp_path / "folder").mkdir()
    targets = [
        run / "metrics.csv",
        run / "summary.json",
        tmp_path / "mine.csv",
        tmp_path / "folder",
    ]
    if os.name != "nt":
        (tmp_path / "link").symlink_to(run / "metrics.csv")
        os.mkfifo(tmp_path / "pipe")
        targets += [tmp_path / "link", tmp_path / "pipe"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for target in targets:
        assert main([str(run), "--format", "csv", "--output", str(target)]) == 1, target
        assert "--output: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    for kind in (["--format", form] for form in ("table", "csv", "json", "markdown", "latex")):
        assert main([str(tmp_path), *kind, "--output", str(tmp_path / "out.txt")]) == 0, kind
    for ending in ("png", "pdf", "svg"):
        for _ in range(2):
            picture = str(tmp_path / f"curves.{ending}")
            assert main([str(tmp_path), "--plot", "curves", "--output", picture]) == 0, ending
