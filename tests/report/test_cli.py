"""The command refine-report."""

import os
import subprocess
import sys

import pytest

from refine.report.cli import main


@pytest.mark.parametrize(
    "options",
    [
        ["--plot", "curves", "--format", "csv"],
        ["--plot", "curves", "--paired", "seed=1"],
        ["--grid", "a", "b"],
        ["--plot", "panels", "--output", "x.jpg"],
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
    assert done.stdout.startswith("group,pruner.ratio,n,test_accuracy_mean")
    assert not done.stderr
    failed = subprocess.run(command(two / "missing"), capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == f"refine-report: {two / 'missing'} does not exist\n"


def test_help_names_every_option():
    text = subprocess.run(command("--help"), capture_output=True, text=True, check=True).stdout
    for option in (
        "--format",
        "--cycles",
        "--sort",
        "--best",
        "--paired",
        "--plot",
        "--grid",
        "--output",
    ):
        assert f"  {option}" in text
    assert text.count("\n  refine-report ") == 6


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
