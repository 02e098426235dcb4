"""The command ``refine-study``: a search over any settings of refine-run."""

import argparse
import hashlib
import sys
from pathlib import Path

from refine.cli.compose import EXPLAINED, explain
from refine.config.choices import FIGURES
from refine.errors import ReportError, SettingError, Stop
from refine.process import version, working_directory
from refine.setting import path_of

DESCRIPTION = """\
Searches settings of refine-run for the highest accuracy on held-out training images
(dataset.validation_size=), never on test images. An OVERRIDE is one of refine-run's; one with
several values is searched:

  pruner.ratio=interval(0.05,0.4)                       any number between
  trainer.optimizer.lr=tag(log,interval(1e-4,1e-1))     on a logarithmic scale
  schedule.interval=range(1,6)                          1, 2, 3, 4, 5; a step can be third
  trainer.batch_size=int(interval(16,256))              any whole number between
  pruner.importance=choice(magnitude,random)            one of them; also without choice()
  model=simple_cnn,resnet20                             groups too

Every trial is a run of its own in DIR/trials. A second start with the same options and overrides
continues the study, and several at once share it. A trial that a killed process left does not
count; the next process that begins a trial gives it up.
"""
EXAMPLES = """\
examples:
  refine-study dataset.validation_size=200 trainer.optimizer.lr='tag(log,interval(1e-4,1e-1))'
  refine-study --at-sparsity 0.9 --trials 50 dataset.validation_size=200 schedule=cubic \\
      'schedule.target_sparsity=choice(0.9,0.92)' 'schedule.interval=range(1,4)'
  refine-study --pareto --timeout 3600 dataset.validation_size=200 'pruner.ratio=interval(0.05,0.5)'

It leaves in DIR: trials.csv, study.png, the runs (refine-report DIR/trials) and best/config.yaml
(refine-run --config-path DIR/best). Exit code: 0 done, 1 error, 2 unknown option, 130 interrupted.
"""
PLACE = Path("results") / "studies"
# Where a trial runs and what it leaves do not make it a trial of another study.
APART = ("device=", "dataset.root=", "save_model=", "figure_formats=")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = _arguments(argv)
    try:
        return _study(arguments)
    except KeyboardInterrupt:
        problem, code = "interrupted", 130
    except ReportError as error:
        problem, code = str(error), 1
    except EXPLAINED as error:
        problem, code = explain(error), 1
    print(f"refine-study: {problem}", file=sys.stderr)
    return code


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="refine-study",
        usage="refine-study [options] OVERRIDE [OVERRIDE ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=version())
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="see above")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--at-sparsity",
        metavar="S",
        type=float,
        default=0.0,
        help="only trials count whose final sparsity of all parameters, to 0.1 %%, is at least "
        "this fraction (default 0: all)",
    )
    goal.add_argument(
        "--pareto",
        action="store_true",
        help="look for the best accuracy at every sparsity (NSGA-II); no trial is stopped early",
    )
    parser.add_argument(
        "--trials",
        metavar="N",
        type=int,
        default=30,
        help="how many in all, with those of earlier starts and failed ones (default 30)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help="begin no trial after this time",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        help=f"the study's own (default: in {PLACE}, named after what is searched)",
    )
    parser.add_argument(
        "--grace",
        metavar="EPOCHS",
        type=int,
        default=0,
        help="no trial is stopped in its first EPOCHS (default 0); later one is, once five count, "
        "if its validation accuracy is below their median at the same epoch",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the search (default 0): in one process the same seed gives the same trials; "
        "the seed of the runs is the override seed=",
    )
    return parser.parse_intermixed_args(argv)


def _study(arguments: argparse.Namespace) -> int:
    _check(arguments)
    try:
        import optuna.storages.journal
    except ImportError:
        raise ReportError(
            "needs optuna 4 or later: pip install 'runtime-refinement[study]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sys.path.append(str(working_directory()))  # the user's own models and importances
    from rich.console import Console

    from refine.study.objective import Objective
    from refine.study.space import check, parsed

    space = parsed(arguments.overrides)
    notes = check(space)
    from refine.study.database import Storage
    from refine.study.progress import Progress
    from refine.study.results import write
    from refine.study.search import Search, search

    command = _command(arguments)
    names = [name.rpartition(".")[2].strip("+") for name in space.searched]
    digest = hashlib.sha256("\n".join(command).encode()).hexdigest()[:8]
    directory = arguments.directory or PLACE / f"{'-'.join(names)[:60]}-{digest}"
    objective = Objective(None if arguments.pareto else arguments.at_sparsity)
    store = Storage(path_of("--directory", directory), command, objective)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for note in notes:
        console.print(f"note: {note}")
    progress = Progress(console, objective)
    plan = Search(
        space, objective, arguments.seed, arguments.trials, arguments.timeout, arguments.grace
    )
    interrupted = False
    try:
        search(plan, store, progress)
    except (KeyboardInterrupt, Stop):
        interrupted = True
    finally:
        progress.close()
    try:
        write(store, objective, console, _formats(arguments.overrides))
    except ReportError:
        if not interrupted:
            raise
    if interrupted:
        raise KeyboardInterrupt
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """SettingError for an option out of its range."""
    for option, right, fine in (
        ("trials", "at least 1", lambda value: value >= 1),
        ("timeout", "above 0", lambda value: value is None or value > 0),
        ("grace", "at least 0", lambda value: value >= 0),
        ("seed", "at least 0", lambda value: value >= 0),
        ("at_sparsity", "a fraction, at least 0 and below 1", lambda value: 0 <= value < 1),
    ):
        value = getattr(arguments, option)
        if not fine(value):
            raise SettingError(f"--{option.replace('_', '-')}", f"must be {right}, not {value:g}")
    if arguments.pareto and arguments.grace:
        raise SettingError("--grace", "cannot be given with --pareto, which stops no trial early")


def _formats(overrides: list[str]) -> str:
    """In which formats study.png is written: as each trial's own figure is."""
    name, given = "figure_formats=", "png"
    for override in overrides:
        if override.startswith(name):
            given = override.removeprefix(name)
    return given if given in FIGURES else "png"


def _command(arguments: argparse.Namespace) -> list[str]:
    """What makes the study this one: two commands for which this is the same can share it."""
    goal = "--pareto" if arguments.pareto else f"--at-sparsity {arguments.at_sparsity:g}"
    overrides = ["".join(override.split()) for override in arguments.overrides]
    kept = sorted(override for override in overrides if not override.startswith(APART))
    return [goal, f"--seed {arguments.seed}", *kept]
