"""The command ``refine-restore``: a run's network as it was before one of its cuts."""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path

from refine.cache import files
from refine.errors import ReportError
from refine.process import run_command, version
from refine.records.files import written_whole
from refine.records.rows import (
    CONFIG_FILE,
    EPOCHS_FILE,
    LOG_FILE,
    MODEL_FILE,
    NETWORK_FILE,
    SUMMARY_FILE,
)
from refine.report import runs
from refine.report.runs import Measurement

RUN_FILES = (CONFIG_FILE, EPOCHS_FILE, LOG_FILE, SUMMARY_FILE)
HEADER = ("cycles", "epoch", "sparsity", "test accuracy", "size", "file", "the last cycle cut", "")
DESCRIPTION = """\
Brings back the network of a run as it was before one of its cycles cut it.

A run with cache=disk keeps in RUN_DIR/cache the network before each cut and, compressed, what each
cycle cut; one that takes channels out (pruner=structured) can keep neither. Without --cycle this
lists what can be restored: a row for each number of cycles that the network had been through, with
epoch, sparsity and test accuracy as the run recorded them then.
"""
EXAMPLES = """\
examples:
  refine-run cache=disk                                a run that keeps its networks
  refine-restore results/runs/2026-01-31/12-00-00      what can be restored of it
  refine-restore RUN_DIR --cycle 0                     as it was before the first cut
  refine-restore RUN_DIR --cycle 2 --to before.safetensors   before the third cycle cut

The file holds parameters and buffers, as the run's model.safetensors does:
  refine-run --config-path RUN_DIR start_from=before.safetensors schedule.interval=4
starts from it with the run's other settings; what is 0 in it is cut. In Python,
safetensors.torch.load_model(model, "before.safetensors") reads it.

Nothing of the run is changed. Exit code: 0 done, 1 error, 2 options that do not fit together.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = _arguments(argv)
    run: Path = arguments.run

    def work() -> None:
        if not run.is_dir():
            problem = "is not a directory" if run.exists() else "does not exist"
            raise ReportError(f"{run} {problem}")
        sources = _sources(run)
        if arguments.cycle is None:
            _list(run, sources)
        else:
            _restore(run, sources, arguments)

    return run_command(
        "refine-restore",
        work,
        (ReportError, files.Damaged),
        lambda error: f"{error.filename or run} cannot be read ({error.strerror or error})",
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="refine-restore",
        usage="refine-restore RUN_DIR [--cycle K [--to FILE] [--force]]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=version())
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the directory of a run")
    parser.add_argument(
        "--cycle",
        metavar="K",
        type=int,
        help="write the network as it was after K cycles, just before the next one cut; 0 is "
        "before the first, and the last is the run's final network",
    )
    parser.add_argument(
        "--to",
        metavar="FILE",
        type=Path,
        help="where to write it, ending in .safetensors; default RUN_DIR/model.cycle-K.safetensors",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    arguments = parser.parse_args(argv)
    if arguments.cycle is None and (arguments.to or arguments.force):
        parser.error("--to and --force need --cycle, which says what to restore")
    if arguments.to and arguments.to.suffix != ".safetensors":
        parser.error(f"--to: FILE ends in .safetensors, not {arguments.to}")
    return arguments


def _sources(run: Path) -> dict[int, Path]:
    """The files with networks, by the number of cycles before; ReportError if there are none."""
    directory = run / files.DIRECTORY
    if not directory.is_dir() and not any((run / name).exists() for name in RUN_FILES):
        raise ReportError(f"{run} {runs.FOREIGN}")
    if not directory.is_dir():
        if _cuts_channels(run):
            raise ReportError(
                f"{run}: this run took channels out (pruner=structured), and only cuts of single "
                "weights can be kept; there is no network from before them"
            )
        raise ReportError(f"{run}: this run kept no networks; run it with cache=disk")
    found = files.kept(directory, files.NETWORK)
    status, cycles = _end(run)
    # A run that failed may have left the network in the middle of a cut.
    if (run / MODEL_FILE).is_file() and (status == "finished" or cycles not in found):
        found |= {} if cycles is None else {cycles: run / MODEL_FILE}
    if not found:
        raise ReportError(f"{run}: no network is kept yet; the first is just before the first cut")
    return dict(sorted(found.items()))


def _cuts_channels(run: Path) -> bool:
    try:
        settings = runs.settings_of(run)
    except runs.Unusable:
        return False
    return settings.get("pruner.criterion", "none") != "none"


def _end(run: Path) -> tuple[str | None, int | None]:
    """How the run ended, and after how many cycles; None and None if it has not."""
    try:
        summary = json.loads((run / SUMMARY_FILE).read_text(encoding="utf-8"))
        return summary["status"], int(summary["cycles"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _recorded(run: Path) -> dict[int, Measurement]:
    """What the run recorded last, by the number of cycles so far."""
    try:
        finished = runs.read_run(run)
        return finished.levels() | {finished.end.cycles: finished.end}
    except runs.Unusable:
        pass
    try:
        return {row.cycles: row for row in runs.read_epochs(run / EPOCHS_FILE)}
    except runs.Unusable as reason:
        print(f"note: no figures of {run}: {reason}", file=sys.stderr)
        return {}


def _list(run: Path, sources: dict[int, Path]) -> None:
    recorded, cuts = _recorded(run), files.kept(run / files.DIRECTORY, files.CUT)
    rows = [HEADER]
    for cycles, path in sources.items():
        figures, cut = ("-", "-", "-"), ("-", "")
        if then := recorded.get(cycles):
            figures = (str(then.epoch), f"{then.sparsity:.1%}", f"{then.test_accuracy:.2%}")
        if cycles in cuts:
            cut = _cut(cuts[cycles])
        place = str(path.relative_to(run))
        rows.append((str(cycles), *figures, _size(path), place, *cut))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if name == "file" else cell.rjust(width)
            for name, cell, width in zip(HEADER, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _cut(path: Path) -> tuple[str, str]:
    try:
        return f"{files.marked(path):,} weights", f"in {_size(path)}"
    except files.Damaged as reason:
        print(f"note: {reason}", file=sys.stderr)
        return "damaged", ""


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.2f} kB"


def _restore(run: Path, sources: dict[int, Path], arguments: argparse.Namespace) -> None:
    cycles = arguments.cycle
    if cycles not in sources:
        there = ", ".join(map(str, sources))
        raise ReportError(f"--cycle: there is no network for {cycles}; there is one for {there}")
    path = arguments.to or run / f"model.cycle-{cycles}.safetensors"
    if path.resolve() == (run / MODEL_FILE).resolve():
        raise ReportError(f"--to: {path} is the run's own and stays as it is; choose another name")
    if path.is_dir():
        raise ReportError(f"--to: {path} is a directory; name a file in it")
    if path.exists() and not arguments.force:
        raise ReportError(f"{path} exists; --to FILE is for another name, --force overwrites it")
    cut = _write(sources[cycles], path)
    print(f"wrote {path}, the network after {cycles} cycle{'s' * (cycles != 1)}")
    if row := _recorded(run).get(cycles):
        figures = f"sparsity {row.sparsity:.1%}, test accuracy {row.test_accuracy:.2%}"
        print(f"{figures}, as recorded after epoch {row.epoch}")
    elif cut is not None:
        print(f"{cut:.1%} of the prunable weights are cut; no epoch was measured then")
    print(f"to start from it: refine-run start_from={shlex.quote(str(path))} ...")


def _write(source: Path, path: Path) -> float | None:
    """Writes the network in ``source`` to ``path``; returns the share of prunable weights that is
    cut, or None if it is not known."""
    description = source.parent.with_name(NETWORK_FILE)  # of a source in the run's cache
    about = description.read_text(encoding="utf-8").strip() if description.is_file() else None
    import safetensors  # only here: --help and the list do not need it

    try:
        if source.name == MODEL_FILE:
            with safetensors.safe_open(source, framework="numpy"):  # refuses what is no network
                kept = None
        else:
            from refine.cache.network import read

            kept = read(source)
    except safetensors.SafetensorError as error:
        raise ReportError(f"{source} is damaged ({error!s:.80})") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kept is not None:
            kept.write(path, about)
        else:
            with written_whole(path) as part:
                shutil.copyfile(source, part)
    except (OSError, safetensors.SafetensorError) as error:  # a SafetensorError: the disk is full
        reason = getattr(error, "strerror", None) or error
        raise ReportError(f"--to: {path} cannot be written ({reason})") from None
    if kept is None:
        return None
    prunable = sum(mask.numel() for mask in kept.masks.values())
    return 1 - sum(int(mask.count_nonzero()) for mask in kept.masks.values()) / prunable


if __name__ == "__main__":
    sys.exit(main())
