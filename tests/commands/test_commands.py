"""The command refine: help, handing over, and its own ls, show, diff and clean."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from filelock import FileLock
from recorded import record

from refine.commands import cli
from refine.report import cli as report


@pytest.fixture
def refine(monkeypatch, capsys, tmp_path):
    """``refine`` with these arguments, in this process and an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["/bin/refine", *map(str, arguments)])
        try:
            code = cli.main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code or 0, out=said.out, err=said.err)

    return call


def held_out(directory, accuracy):
    """Gives a recorded run a validation accuracy."""
    path = directory / "summary.json"
    summary = json.loads(path.read_text()) | {"validation_accuracy": accuracy}
    path.write_text(json.dumps(summary))


def ended(directory, status, reason=None, rows=2):
    """Makes a recorded run one that ended otherwise, or has no summary (None)."""
    record(directory, 0.5)
    summary = {"status": status, "reason": reason}
    (directory / "summary.json").write_text(json.dumps(summary))
    if status is None:
        (directory / "summary.json").unlink()
    lines = (directory / "metrics.csv").read_text().splitlines(keepends=True)
    (directory / "metrics.csv").write_text("".join(lines[: rows + 1]))
    if not rows:
        (directory / "metrics.csv").unlink()
        (directory / "run.log").write_text("begun\n")
    return directory


def names(out):
    return [line.split()[0] for line in out.splitlines()[1:] if line.startswith("results/")]


def test_alone_it_lists_the_commands(refine):
    alone, asked = refine(), refine("--help")
    assert alone == asked
    assert alone.code == 0
    for name in cli.COMMANDS:
        assert f"\n  {name} " in alone.out
    assert all(len(line) <= 100 for line in alone.out.splitlines())
    assert refine("--version").out == "runtime-refinement 0.1.0\n"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("shwo", "there is no command 'shwo'; did you mean show? Known: run, ls"),
        ("refine-run", "there is no command 'refine-run'; "),
        ("pruner.ratio=0.2", "settings follow a command: refine run pruner.ratio=0.2"),
        ("-m", "there is no option -m; settings follow a command: refine run -m"),
    ],
)
def test_what_is_no_command(refine, typed, says):
    done = refine(typed)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err


def test_the_others_get_their_arguments_as_they_are(refine, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("refine.cli.run.main", lambda: seen.append(sys.argv))
    assert refine("run", "-m", "seed=1,2", "--cfg", "job").code == 0
    assert [entry.replace("\\", "/") for entry in seen[0]] == [
        "/bin/refine-run", "-m", "seed=1,2", "--cfg", "job",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        report.main(["--help"])
    own = capsys.readouterr().out
    assert refine("report", "--help").out == own
    assert own.startswith("usage: refine-report")


def test_nothing_is_imported_but_what_is_asked_for(tmp_path):
    record(tmp_path / "results" / "a", 0.7)
    heavy = ("torch", "hydra", "rich", "pandas", "matplotlib")
    code = (
        "import sys\n"
        "from refine.commands.cli import main\n"
        "for words in (['--help'], ['--version'], ['lss'], ['ls', '--help'], ['ls'],\n"
        "              ['diff', 'results/a', 'results/a'], ['clean'], ['show', 'results/a']):\n"
        "    sys.argv = ['refine', *words]\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        f"    print(words[0], *[n for n in {heavy} if n in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if not line.startswith("refine: ")]
    assert lines == [
        "--help", "--version", "lss", "ls", "ls rich", "diff rich", "clean rich",
        "show hydra rich",
    ]  # fmt: skip


def test_ls_shows_every_run_the_best_first(refine, tmp_path):
    home = tmp_path / "results"
    for name, accuracy, validation in (("a", 0.9, 0.7), ("b", 0.8, 0.75), ("c", 0.7, 0.6)):
        held_out(record(home / name, accuracy), validation)
    (home / "c" / "large.bin").write_bytes(bytes(3_000_000))
    done = refine("ls")
    assert (done.code, done.err) == (0, "")
    assert names(done.out) == ["results/b", "results/a", "results/c"]
    assert done.out.splitlines()[1].split()[1:6] == ["finished", "4/4", "75.00%", "80.00%", "30.0%"]
    assert "3 runs, best first by validation accuracy; 3.0 MB in all" in done.out
    assert names(refine("ls", "results", "--sort", "test").out)[0] == "results/a"
    assert names(refine("ls", "--sort", "size").out)[0] == "results/c"
    record(home / "d", 0.95)
    done = refine("ls")
    assert names(done.out)[0] == "results/d"
    assert "4 runs, best first by test accuracy" in done.out


def test_ls_fits_a_terminal_of_80_columns(refine, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    place = tmp_path / "results" / "runs" / "2026-01-31" / "12-00-00"
    held_out(record(place, 0.9), 0.8)
    record(tmp_path / "results" / ("x" * 120), 0.7)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = refine("ls").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("in results ")
    assert lines[1].split()[:2] == ["runs/2026-01-31/12-00-00", "finished"]


def test_ls_tells_how_runs_are_and_names_what_it_leaves_out(refine, tmp_path):
    home = tmp_path / "results"
    ended(home / "failed", "failed", "the loss is nan")
    ended(home / "interrupted", "interrupted")
    ended(home / "killed", None)
    ended(home / "never", None, rows=0)
    ended(home / "under-way", None)
    record(home / "broken", 0.7)
    (home / "broken" / "metrics.csv").write_text("epoch\n")
    (home / "notes").mkdir()
    with FileLock(home / "under-way" / ".lock"):
        done = refine("ls")
    rows = {line.split()[0]: line.split()[1:4] for line in done.out.splitlines()[1:6]}
    assert rows == {
        "results/failed": ["failed", "2/4", "20.00%"],
        "results/interrupted": ["stopped", "2/4", "20.00%"],
        "results/killed": ["stopped", "2/4", "20.00%"],
        "results/under-way": ["running", "2/4", "20.00%"],
        "results/never": ["stopped", "0/4", "-"],
    }
    assert "left out: results/notes: holds no run" in done.err
    assert "left out: results/broken: metrics.csv has no rows" in done.err
    assert refine("ls", "nowhere").err == "refine ls: nowhere does not exist\n"
    assert refine("ls", "results/notes").err.endswith(
        "refine ls: there is no run in results/notes\n"
    )


def test_without_runs_the_directory_is_asked_for(refine):
    done = refine("ls")
    assert done.code == 1
    assert done.err == (
        "refine ls: there is no directory results here; name the one with your runs\n"
    )


def test_names_and_settings_are_shown_as_they_are(refine, tmp_path):
    name = "results/[red]x[/red] :smile: \x1b[1m"
    record(tmp_path / name, 0.7, dataset__root="[bold]here[/bold]\x07")
    record(tmp_path / "results" / "b", 0.6)
    for out in (
        refine("ls").out,
        refine("show", name).out,
        refine("diff", name, "results/b").out,
    ):
        assert "[red]x[/red] :smile: \\x1b[1m" in out
        assert "\x1b" not in out
    assert "[bold]here[/bold]\\x07" in refine("diff", name, "results/b").out


def test_show_and_diff(refine, undisturbed, tmp_path):
    small = (
        "dataset.subset_size=40", "dataset.image_size=8", "dataset.test_size=20", "model=logistic",
        "trainer.epochs=2", "trainer.batch_size=20", "schedule.interval=1", "replay.steps=2",
        "replay.buffer_size=10", "replay.batch_size=10",
    )  # fmt: skip
    one = undisturbed(*small).directory
    done = refine("show", one)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["trainer.epochs", "2", "20"] in lines
    assert ["model", "refine.models.logistic", "refine.models.simple_cnn"] in lines
    assert not any(line[:1] in (["seed"], ["pruner.ratio"]) for line in lines)
    cycle = next(line for line in lines if line[:2] == ["1", "1"])
    assert cycle[3] == "14.9%"
    assert ["epochs", "2", "of", "2"] in lines
    assert ["model.safetensors"] in [line[:1] for line in lines]
    assert f"refine export {one}" in done.out
    assert "trains it further" not in done.out
    other = record(tmp_path / "other", 0.7)
    done = refine("diff", one, other)
    lines = [line.split() for line in done.out.splitlines()]
    assert ["trainer.epochs", "2", "4"] in lines
    assert ["seed", "42", "1"] in lines
    assert not any(line[:1] == ["pruner.ratio"] for line in lines)
    assert ["epochs", "2", "of", "2", "4", "of", "4"] in lines
    assert "no setting differs" in refine("diff", one, one).out
    assert refine("show", tmp_path).err == (
        f"refine show: {tmp_path} holds no run; refine ls {tmp_path} lists those below it\n"
    )


def files(home):
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.name != ".lock")


def test_clean_deletes_checkpoints_of_finished_runs_when_told_to(refine, tmp_path):
    home = tmp_path / "results"
    for directory in (record(home / "done", 0.7), ended(home / "killed", None)):
        (directory / "checkpoint.pt").write_bytes(bytes(2_000_000))
    record(home / "under-way", 0.7)
    (home / "under-way" / "checkpoint.pt").write_bytes(b"x")
    before = files(home)
    with FileLock(home / "under-way" / ".lock"):
        done = refine("clean")
        assert "results/done  checkpoint  2.0 MB" in done.out
        assert "To delete it: refine clean --yes" in done.out
        assert "left out: results/under-way: it is running" in done.err
        assert files(home) == before
        assert "deleted 2.0 MB" in refine("clean", "--yes").out
    assert set(before) - set(files(home)) == {"done/checkpoint.pt"}
    assert "deleted" in refine("clean", "results/under-way", "--delete").out
    assert refine("clean").out == "nothing to delete in 3 runs\n"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_clean_removes_failed_runs_and_nothing_of_anybody_elses(refine, tmp_path):
    home, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    ended(home / "failed", "failed", "the loss is nan")
    never = ended(home / "never", None, rows=0)
    (never / "checkpoint.pt").write_bytes(b"x")
    (never / "cache").mkdir()
    (never / "cache" / "network-0.safetensors.z").write_bytes(b"x")
    mine = ended(home / "mine", "failed", "a reason")
    (mine / "notes.txt").write_text("mine")
    ended(home / "killed", None)
    ended(elsewhere / "far", "failed", "a reason")
    (elsewhere / "checkpoint.pt").write_bytes(b"x")
    (home / "linked").symlink_to(elsewhere / "far", target_is_directory=True)
    linked = record(home / "done", 0.7)
    (linked / "checkpoint.pt").symlink_to(elsewhere / "checkpoint.pt")
    far = files(elsewhere)
    assert refine("clean").out == "nothing to delete in 6 runs\n"
    done = refine("clean", "--failed", "--yes")
    assert done.code == 0
    assert "left out: results/linked: a link leads to it" in done.err
    assert "note: results/mine stays: other files are in it" in done.err
    assert sorted(path.name for path in home.iterdir()) == ["done", "killed", "linked", "mine"]
    assert files(mine) == ["notes.txt"]
    assert files(elsewhere) == far
    assert (linked / "checkpoint.pt").is_symlink()


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("refine ", {"run", "ls", "clean"}),
        ("refine re", {"report", "restore"}),
        ("refine run pruner.rat", {"pruner.ratio="}),
        ("refine run pruner=", {"pruner=magnitude", "pruner=structured"}),
        ("refine show ", set()),
    ],
)
def test_completion(refine, monkeypatch, line, offers):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = refine("-sc", "query=bash")
    assert offers <= set(done.out.split())
    assert bool(offers) == bool(done.out.split())


def test_completion_is_installed_for_the_one_command(refine, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert refine("-sc", "install=bash").out.endswith("-F hydra_bash_completion refine\n")
