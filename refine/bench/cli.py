"""The command ``refine-bench``: compares a refined network with the dense one in tables, sentences
and a picture."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from refine.bench.arguments import parse
from refine.bench.rows import CSV_FILE, FIGURE_FILE, JSON_FILE, BenchRow, as_csv
from refine.errors import NetworkError, ReportError, SettingError
from refine.process import run_command
from refine.records.files import write_text


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = parse(argv)
    return run_command(
        "refine-bench",
        lambda: _bench(arguments),
        (NetworkError, ReportError, SettingError),
        lambda error: f"{error.filename or 'a file'} cannot be written ({error.strerror or error})",
    )


def _bench(arguments: argparse.Namespace) -> None:
    to = _directory(arguments)
    from refine.bench.comparison import BenchOptions, compare  # only now: --help needs no torch

    options = BenchOptions(
        runs=tuple(arguments.runs),
        dense=arguments.dense,
        forms=arguments.form,
        batches=arguments.batch,
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        device=arguments.device,
        threads=arguments.threads,
        test_images=arguments.test_images,
        dataset_root=arguments.dataset_root,
    )
    with _progress() as show_progress, TemporaryDirectory(prefix="refine-bench-") as place:
        comparison = compare(options, Path(place), show_progress)
    _write(to, comparison.rows, comparison.record(), arguments.figure_formats)
    _show(comparison.rows, comparison.skipped, comparison.sentences)
    print(f"wrote {to / CSV_FILE}, {JSON_FILE} and {FIGURE_FILE}")


def _directory(arguments: argparse.Namespace) -> Path:
    """The directory for the results. ReportError, before anything is measured, if they cannot be
    written there."""
    to: Path | None = arguments.to
    if to is None and len(arguments.runs) == 1:
        to = Path(arguments.runs[0], "bench")
    elif to is None:
        to = Path(f"results/bench/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    if to.exists() and not to.is_dir():
        raise ReportError(f"--to: {to} is a file; name a directory")
    taken = [name for name in (CSV_FILE, JSON_FILE, FIGURE_FILE) if (to / name).exists()]
    if taken and not arguments.force:
        raise ReportError(
            f"{to / taken[0]} exists; name another directory with --to, or overwrite it with "
            "--force"
        )
    there = next(folder for folder in (to, *to.absolute().parents) if folder.exists())
    if arguments.runs[0].is_dir() and not os.access(there, os.W_OK):
        raise ReportError(f"--to: {there} cannot be written to; choose another directory")
    return to


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, if there is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False, markup=False).status("starting") as status:
        yield status.update


def _write(to: Path, rows: list[BenchRow], record: dict[str, Any], formats: str) -> None:
    """Writes all three files, once the content of all is complete."""
    from refine.bench.picture import speedups
    from refine.report.style import save_all

    figure, text = speedups(rows), json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    to.mkdir(parents=True, exist_ok=True)
    save_all(figure, to / FIGURE_FILE, formats)
    write_text(to / JSON_FILE, text)
    write_text(to / CSV_FILE, as_csv(rows))


def _show(rows: list[BenchRow], skipped: dict[str, str], sentences: list[str]) -> None:
    from rich.console import Console

    from refine.bench.tables import tables

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, soft_wrap=True, width=160)
    for table in tables(rows):
        console.print(table)
    for name, reason in skipped.items():
        console.print(f"left out: {name}: {reason}")
    for sentence in sentences:
        console.print(sentence)


if __name__ == "__main__":
    sys.exit(main())
