"""The command ``refine show``: what is one run, what came of it, and what can be done next?"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from refine.commands import listed, screen
from refine.commands.listed import Listed
from refine.commands.results import results
from refine.errors import ReportError
from refine.plain import plain
from refine.process import run_command
from refine.records.rows import CACHE_DIRECTORY, CONFIG_FILE, CYCLES_FILE, MODEL_FILE
from refine.report import runs
from refine.report.texts import Unusable

DESCRIPTION = """\
Shows one run: the settings that differ from the defaults, its cycles, how it ended, its files, and
the commands that go on from there.
"""
EXAMPLES = """\
example:
  refine show results/runs/2026-01-31/12-00-00

Exit code: 0 done, 1 error, 2 wrong arguments.
"""
MOST_FILES = 20  # that are named


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="refine show",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a run")
    arguments = parser.parse_args(argv)
    return run_command(
        "refine show",
        lambda: _show(listed.one(arguments.run)),
        (ReportError,),
        lambda error: plain(f"{error.filename}: {error.strerror}"),
    )


def _show(run: Listed) -> None:
    because = f": {run.reason}" if run.reason and run.reason != run.status else ""
    screen.show(f"{plain(run.directory)}: {run.status}{because}")
    if run.settings:
        _section(
            "Settings that differ from the defaults",
            ("setting", "value", "default"),
            _settings(run),
            3,
        )
    header = ("cycle", "epoch", "cut", "sparsity", "test before", "after the cut", "at its end")
    _section("Cycles", header, _cycles(run), 0)
    _section("Results, as last measured", ("", ""), list(results(run).items()), 2)
    found = listed.sizes(run.directory)
    files = [(path.relative_to(run.directory), screen.size(size)) for path, size in found.items()]
    if len(files) > MOST_FILES:
        rest = sum(list(found.values())[MOST_FILES:])
        files = files[:MOST_FILES]
        more = f"{len(found) - MOST_FILES:,} more files"
        _section("Files", ("", ""), [*files, (more, screen.size(rest))], 1)
    else:
        _section("Files", ("", ""), files, 1)
    screen.show("\nNext")
    for command, what in _next(run):
        screen.show(f"  {command}\n      {what}")


def _section(
    title: str, header: tuple[str, ...], rows: Sequence[tuple[object, ...]], left: int
) -> None:
    if rows:
        screen.show(f"\n{title}\n{screen.table(header, rows, left, indent=2)}")


def _settings(run: Listed) -> list[tuple[object, ...]]:
    from refine.cli.compose import composed  # only now: --help needs none of it
    from refine.config.fingerprint import plain as resolved
    from refine.setting import flat

    usual = dict(flat(resolved(composed([]))))
    rows: list[tuple[object, ...]] = []
    for name, value in run.settings.items():
        shown = screen.value(value)
        default = screen.value(usual[name]) if name in usual else screen.NOTHING
        if shown != default:
            rows.append((name, shown, default))
    return rows


def _cycles(run: Listed) -> list[tuple[object, ...]]:
    path = run.directory / CYCLES_FILE
    if not path.exists():
        return []
    rows: list[tuple[object, ...]] = []
    try:
        for row in runs.rows_of(path):
            accuracies = [
                screen.percent(float(text)) if (text := row[f"test_accuracy_{when}"]) else "-"
                for when in ("before", "after_cut", "after_replay")
            ]
            cut, sparsity = f"{int(row['cut_weights']):,}", float(row["sparsity"])
            rows.append((row["cycle"], row["epoch"], cut, screen.percent(sparsity, 1), *accuracies))
    except (Unusable, KeyError, ValueError) as reason:
        screen.note(f"note: {path.name} cannot be read: {reason}")
    return rows


def _next(run: Listed) -> list[tuple[str, str]]:
    """Commands that go on from the run, and what each does."""
    place = shlex.quote(plain(run.directory))
    if run.status == "running":
        return [(f"refine show {place}", "how far it is by then")]
    found = []
    if run.status == "finished":
        found.append((f"refine report {place}", "a table of its accuracy and sparsity"))
        if (run.directory / MODEL_FILE).is_file():
            found.append((f"refine export {place}", "files to deploy"))
            found.append((f"refine bench {place}", "its size and speed beside the dense network's"))
        if run.checkpoints and run.planned:
            more = f"refine run resume={place} trainer.epochs={2 * run.planned}"
            found.append((more, "trains it further"))
            found.append((f"refine clean {place}", "what can be deleted"))
    elif run.checkpoints:
        found.append((f"refine run resume={place}", "goes on where it stopped"))
    if (run.directory / CACHE_DIRECTORY).is_dir():
        found.append((f"refine restore {place}", "the networks before its cuts"))
    if (run.directory / CONFIG_FILE).is_file():
        found.append((f"refine run --config-path {place}", "the same run again"))
    return found
