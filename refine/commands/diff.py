"""The command ``refine diff``: in which settings and results do two runs differ?"""

import argparse
from pathlib import Path

from refine.commands import listed, screen
from refine.commands.listed import Listed
from refine.commands.results import results
from refine.errors import ReportError
from refine.plain import plain
from refine.process import run_command

DESCRIPTION = "Shows the settings in which two runs differ, and their results side by side."
EXAMPLES = """\
example:
  refine diff results/runs/2026-01-31/12-00-00 results/runs/2026-01-31/12-30-00

Exit code: 0 done, also if they differ; 1 error, 2 wrong arguments.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="refine diff",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="RUN", type=Path, help="the directory of a run")
    parser.add_argument("second", metavar="RUN", type=Path, help="the directory of another")
    arguments = parser.parse_args(argv)
    return run_command(
        "refine diff",
        lambda: _compare(listed.one(arguments.first), listed.one(arguments.second)),
        (ReportError,),
        lambda error: plain(f"{error.filename}: {error.strerror}"),
    )


def _compare(first: Listed, second: Listed) -> None:
    screen.show(f"A  {plain(first.directory)}\nB  {plain(second.directory)}\n")
    one, other = ({n: screen.value(v) for n, v in run.settings.items()} for run in (first, second))
    absent = screen.NOTHING
    rows = [
        (name, one.get(name, absent), other.get(name, absent))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]
    if rows:
        screen.show(screen.table(("setting", "A", "B"), rows, left=3))
    else:
        screen.show("no setting differs")
    one, other = results(first), results(second)
    both = [
        (name, one.get(name, absent), other.get(name, absent))
        for name in dict.fromkeys([*one, *other])
    ]
    screen.show("\n" + screen.table(("result", "A", "B"), both, left=3))
