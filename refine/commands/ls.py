"""The command ``refine ls``: which runs are there, how far, how good and how large?"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refine.commands import listed, screen
from refine.commands.listed import Listed
from refine.errors import ReportError
from refine.plain import plain
from refine.process import run_command

# Each key's figure and whether its largest comes first.
KEYS: dict[str, tuple[Callable[[Listed], Any], bool]] = {
    "validation": (lambda run: run.validation, True),
    "test": (lambda run: run.test, True),
    "sparsity": (lambda run: run.sparsity, True),
    "epochs": (lambda run: run.epochs, True),
    "size": (lambda run: run.size, True),
    "status": (lambda run: run.status, False),
    "name": (lambda run: str(run.directory), False),
}
DESCRIPTION = """\
Lists the runs at or below directories: status (finished, stopped, running, failed), epochs done
and planned, the last accuracies and sparsity (of all parameters), and size on disk.

The best is first: by validation accuracy if every run has one, else by test accuracy.
"""
EXAMPLES = """\
examples:
  refine ls                            all runs below results/
  refine ls results/sweeps --sort size

Directories without a run and broken runs are named on stderr and left out.
Exit code: 0 done, 1 error, 2 unknown option.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="refine ls",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        type=Path,
        help="a run's directory, or one with runs at any depth (default: results)",
    )
    parser.add_argument("--sort", metavar="KEY", choices=KEYS, help=", ".join(KEYS))
    arguments = parser.parse_args(argv)
    return run_command(
        "refine ls",
        lambda: _list(arguments.directories, arguments.sort),
        (ReportError,),
        lambda error: plain(f"{error.filename}: {error.strerror}"),
    )


def _list(directories: list[Path], key: str | None) -> None:
    found, left_out = listed.find(directories)
    screen.name_left_out(left_out)
    if not found:
        raise ReportError("there is no run that can be read in what was given")
    order = "best first by " if key is None else "by "
    if key is None:
        key = "validation" if listed.by_validation(found) else "test"
    order += f"{key} accuracy" if key in ("validation", "test") else key
    found = ordered(found, key)
    held_out = any(run.validation is not None for run in found)
    header = ["run", "status", "epochs", "valid.", "test", "sparsity", "size"]
    home = (directories or [listed.DEFAULT])[0]
    short = len(directories) < 2 and sys.stdout.isatty()  # so that 80 columns are enough
    if short:
        header[0] = f"in {plain(home)}"
    sizes = [run.size for run in found]
    rows = [
        [run.directory.relative_to(home) if short else run.directory, run.status, _epochs(run),
         screen.percent(run.validation), screen.percent(run.test),
         screen.percent(run.sparsity, 1), screen.size(size)]
        for run, size in zip(found, sizes, strict=True)
    ]  # fmt: skip
    if not held_out:
        header.remove("valid.")
        rows = [[cell for number, cell in enumerate(row) if number != 3] for row in rows]
    screen.show(screen.table(header, rows))
    what = screen.counted(len(found), "run")
    screen.show(f"\n{what}, {order}; {screen.size(sum(sizes))} in all")


def ordered(found: list[Listed], key: str) -> list[Listed]:
    """The runs in the order of a key of KEYS, those without its figure last."""
    figure, largest_first = KEYS[key]
    by_name = sorted(found, key=lambda run: str(run.directory))
    known = [(figure(run), run) for run in by_name]
    have = [pair for pair in known if pair[0] is not None]
    have.sort(key=lambda pair: pair[0], reverse=largest_first)
    return [run for _, run in have] + [run for number, run in known if number is None]


def _epochs(run: Listed) -> str:
    return f"{run.epochs}/{run.planned or '?'}"
