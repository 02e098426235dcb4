"""The command ``refine-run``: one run, a sweep, a resumed run, or help."""

import logging
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import NoReturn, cast

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from refine.cli import sweep
from refine.cli.compose import (
    EXPLAINED,
    check_groups,
    check_launcher,
    composed,
    explain,
    jobs,
    settled,
    tolerated,
)
from refine.cli.guesses import without_dashes
from refine.cli.job import Job, run_directory
from refine.cli.overrides import given, keys_of, quoted, readable, swept
from refine.config import config_directory, validate
from refine.errors import SettingError, Stop
from refine.plain import counted
from refine.process import (
    INTERRUPTED,
    PREEMPTED,
    Signals,
    forgiving_streams,
    ignore_signals,
    version,
    working_directory,
)
from refine.records.rows import SUMMARY_FILE
from refine.setting import path_of
from refine.training import resume

FULL_ERROR = "HYDRA_FULL_ERROR"
SHARED_KEYS = "hydra.job.config.override_dirname.exclude_keys"
WANTS_TRACEBACK = os.environ.get(FULL_ERROR, "0") not in ("", "0")


def main() -> None:
    """Runs the command line; exit code 1 after an error, 130 after Ctrl-C, 75 if a signal stopped
    the run and it can be resumed."""
    parser = get_args_parser()
    flags = [*parser._option_string_actions]
    if "-V" in sys.argv[1:] or "--version" in sys.argv[1:]:
        print(version())
        return
    if meant := without_dashes(sys.argv[1:], flags):
        _leave(meant, 2)
    asked = parser.parse_args()
    if asked.shell_completion:
        _run()
        return
    options = [entry for entry in sys.argv[1:] if entry not in asked.overrides]
    forgiving_streams(outlive_reader=True)
    os.environ[FULL_ERROR] = "1"  # Hydra then raises an error instead of printing it
    try:
        sys.path.append(str(working_directory()))  # the user's own models and importances
        asked.overrides = readable(asked.overrides, several=asked.multirun)
        directory = given(asked.overrides, "resume")
        if directory is not None:
            resume.check(_run_to_resume(directory, asked))
            asked.config_path = directory
        if asked.config_path:  # Hydra would look beside this file; the last one counts
            asked.config_path = str(path_of("--config-path", asked.config_path).absolute())
            options += ["--config-path", asked.config_path]
        sys.argv[1:] = [*options, *asked.overrides]  # Hydra takes options first
        _dispatch(asked)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except Stop as stop:
        _leave(str(stop), PREEMPTED if stop.status == "preempted" else INTERRUPTED)
    except EXPLAINED as error:
        if WANTS_TRACEBACK:
            raise
        _leave(explain(error), 1)


def _run_to_resume(directory: str, asked: Namespace) -> Path:
    """The directory of the one run that ``resume=`` names."""
    if not directory.strip():
        raise SettingError("resume", "is empty; name the directory of a run")
    if asked.multirun:
        raise SettingError("resume", "resumes one run; a sweep resumes when it is started again")
    return path_of("resume", directory)


def _dispatch(asked: Namespace) -> None:
    """Does what the command line asks for."""
    if given(asked.overrides, "hydra.mode") == "MULTIRUN":
        raise SettingError("hydra.mode", "cannot be set; refine-run -m makes a sweep")
    check_groups(asked.overrides, asked.config_path)
    if asked.help:
        from refine.cli.help import help_text

        print(help_text(composed(asked.overrides, asked.config_path)))
    elif asked.cfg == "job" and not (asked.multirun or asked.package):  # Hydra's lacks defaults
        config = composed(asked.overrides, asked.config_path)
        print(OmegaConf.to_yaml(config, resolve=asked.resolve))
    elif asked.multirun and not asked.cfg:
        sys.exit(_sweep(asked))
    elif given(asked.overrides, "resume") and not asked.cfg:
        _resume(Path(asked.config_path), asked)
    else:
        _run()


@hydra_main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def _run(config: DictConfig) -> None:
    hydra = HydraConfig.get()
    try:
        overrides = cast(list[str], OmegaConf.to_container(hydra.overrides.task))  # as typed
        if hydra.mode == RunMode.MULTIRUN:
            tolerated(config, overrides)
        else:
            sources = hydra.runtime.config_sources
            settled(config, overrides, next(s.path for s in sources if s.provider == "main"))
            validate(config)
    except EXPLAINED as error:  # here: Hydra would say in its own words that a job has failed
        if WANTS_TRACEBACK:
            raise
        _leave(explain(error), 1)
    if hydra.mode == RunMode.MULTIRUN:
        _job(config)
        return
    if sys.stdout.isatty():
        chosen = hydra.runtime.choices
        print(f"{chosen['model']} on {chosen['dataset']}: loading PyTorch", flush=True)
    from refine.experiment import run  # only here: --cfg job needs no torch
    from refine.report.terminal import Terminal

    terminal = Terminal()
    try:
        run(config, terminal)
        ignore_signals()
    except EXPLAINED as error:  # here, before Hydra prints its own message
        terminal.close()
        if WANTS_TRACEBACK:
            raise
        _leave(explain(error), 1)
    finally:
        terminal.close()


def _resume(directory: Path, asked: Namespace) -> None:
    config = composed(asked.overrides, asked.config_path)
    resume.check_same(directory, config)
    done = resume.epochs_done(directory)
    if done >= config.trainer.epochs:
        print(resume.finished(directory, done))
        return
    _run()


def _sweep(asked: Namespace) -> int:
    """Runs a sweep and returns its exit code."""
    from rich.console import Console

    check_launcher(asked.overrides)
    names, shared = swept(asked.overrides)
    place = sweep.directory(asked, names, shared)
    console = Console(soft_wrap=True, markup=False)
    todo: list[Job] = []
    with console.status("checking the settings of every run"):
        runs, notes = jobs(asked.overrides, asked.config_path)
        for overrides, config in runs:
            own = [entry for entry in overrides if entry not in shared] or overrides
            todo.append(Job(" ".join(own), config, place))
    sweep.check(todo, place)
    if not names:
        notes = ["no setting has several values, so this is one run", *notes]
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if todo[0].config.sweep.dry_run:
        sweep.show_plan(todo, console)
        return 0
    sys.argv += [
        f"hydra.sweep.dir={quoted(str(place))}",
        f"{SHARED_KEYS}=[{','.join(keys_of(shared))}]",
    ]
    problem: Exception | None = None
    with sweep.Watch(todo, console), Signals(at_once=True):
        try:
            _run()
        except Exception as error:  # of a launcher, or of a run that could not write files
            problem = error
        except BaseException:  # Ctrl-C, or a signal
            done = sum(job.finished() for job in todo)
            print(
                f"{done} of {counted(len(todo), 'run')} finished; the same command goes on",
                file=sys.stderr,
            )
            raise
    code = sweep.report(todo, console, lambda text: print(text, end=""))
    if problem and code:
        named = isinstance(problem, EXPLAINED)
        what = explain(problem) if named else f"{type(problem).__name__}: {problem!s:.300}"
        print(f"refine-run: {what}", file=sys.stderr)
    return code


def _job(config: DictConfig) -> None:
    """One run of a sweep, in any process; a failure is recorded in the run's directory."""
    hydra = HydraConfig.get()
    directory = run_directory(Path(hydra.sweep.dir), hydra.job.override_dirname, config)
    if resume.epochs_done(directory) >= config.trainer.epochs:
        return
    if str(Path.cwd()) not in sys.path:  # in a worker
        sys.path.append(str(Path.cwd()))
    from refine.experiment import run
    from refine.records.directory import Busy
    from refine.report.terminal import LogOnly
    from refine.training.device import gpu_of_ones_own, use_threads

    use_threads(hydra.launcher.get("cpus_per_task"))
    try:
        with gpu_of_ones_own(config.device, directory.parent) as config.device:
            run(config, LogOnly(), str(directory), again=True)
    except Stop as stop:
        if stop.signal and callable(signal.getsignal(stop.signal)):
            signal.raise_signal(stop.signal)  # submitit requeues the job then
        raise
    except Busy:
        logging.getLogger("refine").info("%s is being run by another process", directory)
    except (Exception, SystemExit):
        if not (directory / SUMMARY_FILE).exists():  # the summary says what happened
            raise


def _leave(message: str, code: int) -> NoReturn:
    print(f"refine-run: {message}", file=sys.stderr)
    sys.exit(code)
