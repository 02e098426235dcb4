"""The command ``refine clean``: what do runs need no more, and how much room does it take?"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from refine.cache import files as cache
from refine.commands import listed, screen
from refine.commands.listed import Listed, is_file
from refine.errors import ReportError
from refine.plain import plain
from refine.process import run_command
from refine.records.directory import FILES
from refine.records.lock import held
from refine.records.rows import CACHE_DIRECTORY, LOCK_FILE
from refine.report.texts import Unusable

DESCRIPTION = """\
Shows what the runs at or below directories need no more, and deletes it with --yes: checkpoints of
finished runs, without which they cannot be trained further; their networks, tables and settings
stay. With --failed also whole runs that failed, or stopped before their first epoch was measured.

Runs under way and files that are not a run's own are left alone, and no link is followed.
"""
EXAMPLES = """\
examples:
  refine clean                         what could go from below results/
  refine clean --yes                   deletes it
  refine clean results/sweeps --failed

Exit code: 0 done, 1 error, 2 unknown option.
"""


@dataclass(frozen=True)
class Waste:
    """Files of a run that can go, and why; ``whole``: its directory goes with them."""

    run: Listed
    what: str
    files: dict[Path, int]
    whole: bool = False

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return sum(self.files.values())


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="refine clean",
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
    parser.add_argument(
        "--failed",
        action="store_true",
        help="also runs that failed or stopped before their first epoch was measured",
    )
    parser.add_argument(
        "--yes", "--delete", dest="delete", action="store_true", help="delete it; no way back"
    )
    arguments = parser.parse_args(argv)
    return run_command(
        "refine clean",
        lambda: _clean(arguments),
        (ReportError,),
        lambda error: plain(f"{error.filename} cannot be deleted: {error.strerror}"),
    )


def _clean(arguments: argparse.Namespace) -> None:
    directories: list[Path] = arguments.directories or [listed.DEFAULT]
    found, left_out = listed.find(arguments.directories)
    for run in found:
        if not _inside(run.directory, directories):
            left_out[run.directory] = "a link leads to it"
        elif run.status == "running":
            left_out[run.directory] = "it is running"
    screen.name_left_out(left_out)
    waste = [_waste(run, arguments.failed) for run in found if run.directory not in left_out]
    todo = [entry for entry in waste if entry is not None]
    if not todo:
        screen.show(f"nothing to delete in {screen.counted(len(found), 'run')}")
        return
    rows = [(entry.run.directory, entry.what, screen.size(entry.size)) for entry in todo]
    screen.show(screen.table(("run", "what", "size"), rows, left=2))
    total = screen.size(sum(entry.size for entry in todo))
    if arguments.delete:
        done = [_delete(entry, arguments.failed) for entry in todo]
        screen.show(f"\ndeleted {screen.size(sum(done))}")
        return
    given = ["--failed"] * arguments.failed + [plain(entry) for entry in arguments.directories]
    command = shlex.join(["refine", "clean", *given, "--yes"])
    screen.show(f"\n{total} could be deleted; nothing was. To delete it: {command}")


def _inside(directory: Path, given: list[Path]) -> bool:
    """Whether a run is in one of the ``given`` directories itself, not by way of a link below."""
    place = directory.resolve()
    return any(
        directory.is_relative_to(entry) and place == entry.resolve() / directory.relative_to(entry)
        for entry in given
    )


def _waste(run: Listed, failed: bool) -> Waste | None:
    if run.status == "finished" and run.checkpoints:
        sizes = {path: path.lstat().st_size for path in run.checkpoints}
        return Waste(run, "checkpoint", sizes)
    never = run.status not in ("finished", "running") and run.epochs == 0
    if failed and (run.status == "failed" or never):
        what = "failed" if run.status == "failed" else "stopped before its first epoch"
        return Waste(run, what, {path: path.lstat().st_size for path in _own(run)}, whole=True)
    return None


def _own(run: Listed) -> list[Path]:
    """The files that the run itself has made."""
    home, kept = run.directory, run.directory / CACHE_DIRECTORY
    found = [home / name for name in FILES if name != LOCK_FILE]
    found += home.glob(".*.part")
    if not kept.is_symlink():
        for kind in (cache.CUT, cache.NETWORK):
            found += cache.kept(kept, kind).values()
        found += kept.glob(".*.part")
    return [path for path in found if is_file(path)]


def _delete(entry: Waste, failed: bool) -> int:
    """Deletes it, unless the run has been started again since; returns how many bytes."""
    home = entry.run.directory
    with held(home) as free:
        try:
            now = _waste(listed.read(home, alone=True), failed) if free else None
        except Unusable:
            now = None
        if now is None or (now.what, now.whole) != (entry.what, entry.whole):
            screen.note(f"left out: {home}: it has changed meanwhile")
            return 0
        for path in now.files:
            path.unlink()
        if now.whole:
            _remove_if_empty(home / CACHE_DIRECTORY)
            (home / LOCK_FILE).unlink(missing_ok=True)
    if now.whole and not _remove_if_empty(home):
        screen.note(f"note: {home} stays: other files are in it")
    return now.size


def _remove_if_empty(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True
