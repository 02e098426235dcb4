"""The command ``refine-report``: tables and pictures of the runs in given directories."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from refine.errors import ReportError
from refine.plain import plain
from refine.process import run_command, version
from refine.records.files import write_text
from refine.report import ends, groups, runs, tables
from refine.report.target import check_target

PLOTS = ("curves", "pareto", "grid", "panels")
PICTURES = (".png", ".pdf", ".svg")
DESCRIPTION = """\
Makes a table or a picture of runs from the files that refine-run left in their directories.

Runs that differ only in their seed are one group (device, output_dir, save_model and dataset.root
do not count either). For each group the table shows how its n runs ended: mean accuracies with
their 95 % t interval, sparsity, parameters, multiply-accumulates, size and time. --cycles shows
accuracy and sparsity before every cycle too.
"""
EXAMPLES = """\
examples:
  refine-report results/sweeps/pruner.ratio-3fa9c2       a table of every group in a sweep
  refine-report results/runs --best                      the best group
  refine-report results/runs --format latex --output paper/table.tex
  refine-report sweep --paired pruner.importance=random     every group against this one, by seed
  refine-report sweep --plot pareto --output figures/pareto.pdf
  refine-report sweep --plot grid --grid pruner.ratio schedule.interval

Unfinished, failed and broken runs, and directories without any, are named on stderr and left
out. Exit code: 0 done, 1 error, 2 options that do not fit together.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = _arguments(argv)
    return run_command(
        "refine-report",
        lambda: _report(arguments),
        (ReportError,),
        lambda error: plain(f"{error.filename}: {error.strerror}"),
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="refine-report",
        usage="refine-report DIR [DIR ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=version())
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a run's directory, or one that holds runs at any depth",
    )
    _add_kinds(parser)
    parser.add_argument(
        "--paired",
        metavar="SETTING=VALUE",
        help="instead, a table of how each group's final test accuracy differs from that of the "
        "group with this setting, paired by seed; several settings in quotes, blanks between",
    )
    parser.add_argument(
        "--plot",
        choices=PLOTS,
        help="a picture instead of a table. curves: test accuracy over epochs; pareto: against "
        "sparsity; grid: a heat map of final test accuracy over two swept settings; panels: "
        "each run's refinement.png again, in its own directory, or that of one run as --output",
    )
    parser.add_argument(
        "--grid",
        metavar=("X", "Y"),
        nargs=2,
        help="the settings on a grid's axes, needed if more than two differ",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="where to write; a table's default is the terminal, a picture's curves.png, "
        "pareto.png or grid.png here. Pictures end in .png, .pdf or .svg",
    )
    arguments = parser.parse_args(argv)
    if arguments.plot and (arguments.format or arguments.paired):
        parser.error("--plot makes a picture, --format and --paired a table; choose one")
    if (arguments.sort or arguments.best) and (
        arguments.plot or arguments.paired or arguments.cycles
    ):
        parser.error("--sort and --best go without --plot, --paired and --cycles")
    if arguments.grid and arguments.plot != "grid":
        parser.error("--grid needs --plot grid")
    if arguments.output and arguments.plot and arguments.output.suffix.lower() not in PICTURES:
        parser.error(f"--output: a picture ends in {', '.join(PICTURES)}, not {arguments.output}")
    return arguments


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    """What the table shows, and in which order."""
    parser.add_argument(
        "--format",
        choices=tables.FORMATS,
        help="of the table; table (default), markdown and latex are for people and in per cent, "
        "csv and json hold unrounded fractions",
    )
    parser.add_argument(
        "--cycles",
        action="store_true",
        help="a row for each number of cycles, at the last epoch before the next, and the end",
    )
    parser.add_argument("--sort", choices=ends.KEYS, help="the groups by this, the best first")
    parser.add_argument(
        "--best",
        action="store_true",
        help="only the best group: by --sort, else by validation accuracy if images were held out "
        "for it, else by test accuracy",
    )


def _report(arguments: argparse.Namespace) -> None:
    directories, foreign = runs.find(arguments.directories)
    _name_left_out(foreign)
    if arguments.plot == "panels":
        _draw_panels(directories, arguments.output)
        return
    finished, left_out = runs.read(directories)
    _name_left_out(left_out)
    if not finished:
        raise ReportError("there is no finished run in what was given")
    grouping = groups.group(finished)
    for group in grouping.groups:
        if seeds := groups.repeated_seeds(group):
            _note(f"note: {group.name} has several runs of seed {seeds}; all of them count")
    if arguments.plot:
        _draw(grouping, arguments, left_out)
        return
    if arguments.paired:
        reference = groups.select(grouping.groups, arguments.paired)
        table = tables.of_differences(grouping, reference)
    elif arguments.cycles:
        table = tables.of_groups(grouping)
    else:
        table = ends.of_ends(grouping, arguments.sort, arguments.best)
    text = tables.written(table, arguments.format or "table")
    if arguments.output:
        _write(arguments.output, lambda path: write_text(path, text))
    else:
        encoding = sys.stdout.encoding or "utf-8"  # shows ? where it has no ±
        print(text.encode(encoding, "replace").decode(encoding), end="")


def _draw(
    grouping: groups.Grouping, arguments: argparse.Namespace, left_out: Iterable[Path]
) -> None:
    from refine.report import plots  # only now: a table needs no matplotlib
    from refine.report.grid import grid, swept
    from refine.report.style import save

    if arguments.plot == "grid":
        figure = grid(grouping, *swept(grouping, arguments.grid), left_out)
    else:
        figure = {"curves": plots.curves, "pareto": plots.pareto}[arguments.plot](grouping)
    path = arguments.output or Path(f"{arguments.plot}.png")
    _write(path, lambda path: save(figure, path))


def _draw_panels(directories: list[Path], output: Path | None) -> None:
    from refine.report.figure import draw_run, drawn
    from refine.report.style import save

    if output and len(directories) != 1:
        raise ReportError(f"--output: is for the panels of one run; here are {len(directories)}")
    done = 0
    for directory in directories:
        try:
            runs.read_epochs(directory / runs.EPOCHS_FILE)  # unfinished runs may be drawn too
            if output:
                figure = drawn(directory)
            else:
                print(f"wrote {plain(draw_run(directory))}")
            done += 1
        except Exception as error:  # whatever the columns of a foreign table do to a drawing
            reason = " ".join(str(error).split()) or type(error).__name__
            _name_left_out({directory: reason[: runs.REASON]})
    if not done:
        raise ReportError("there is no run to draw in what was given")
    if output:
        _write(output, lambda path: save(figure, path))


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise ReportError(f"--output: {path} cannot be written ({error.strerror})") from None
    print(f"wrote {plain(path)}")


def _name_left_out(reasons: dict[Path, str]) -> None:
    for directory, reason in reasons.items():
        _note(f"left out: {plain(directory)}: {plain(reason)}")


def _note(text: str) -> None:
    print(text, file=sys.stderr)
