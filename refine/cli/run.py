"""The command ``refine-run``; with refine/cli/compose.py the only module that knows Hydra."""

import hashlib
import logging
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from refine.cli import resume, sweep
from refine.cli.compose import (
    EXPLAINED,
    check_groups,
    check_launcher,
    composed,
    explain,
    given,
    jobs,
    keys_of,
    swept,
)
from refine.config import config_directory
from refine.config.fingerprint import APART, within
from refine.errors import SettingError, Stop
from refine.process import INTERRUPTED, PREEMPTED, Signals, ignore_signals

FULL_ERROR = "HYDRA_FULL_ERROR"
SHARED_KEYS = "hydra.job.config.override_dirname.exclude_keys"
WANTS_TRACEBACK = os.environ.get(FULL_ERROR, "0") not in ("", "0")


def main() -> None:
    """Runs the command line; exit code 1 for a mistake in it, 130 for Ctrl-C, 75 if it was stopped
    by a signal and can be gone on with."""
    asked = get_args_parser().parse_args()
    options = [entry for entry in sys.argv[1:] if entry not in asked.overrides]
    asked.overrides = list(map(_quoted, asked.overrides))
    sys.path.append(str(Path.cwd()))  # one's own models and importances are found here
    os.environ[FULL_ERROR] = "1"  # Hydra shall raise what went wrong, not print it
    try:
        directory = given(asked.overrides, "resume")
        if directory is not None:
            resume.check(Path(directory).expanduser())
            asked.config_path = directory
        if asked.config_path:  # Hydra would look for it beside this file; the last one counts
            asked.config_path = str(Path(asked.config_path).expanduser().absolute())
            options += ["--config-path", asked.config_path]
        sys.argv[1:] = [*options, *asked.overrides]  # Hydra takes options first
        if given(asked.overrides, "hydra.mode") == "MULTIRUN":
            raise SettingError("hydra.mode", "is not to be set; refine-run -m makes a sweep")
        check_groups(asked.overrides, asked.config_path)
        if asked.help:
            from refine.cli.help import help_text

            print(help_text(composed(asked.overrides, asked.config_path)))
        elif directory and not asked.cfg:
            _resume(Path(asked.config_path), asked)
        elif asked.multirun and not asked.cfg:
            sys.exit(_sweep(asked))
        else:
            _run()
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except Stop as stop:
        _leave(str(stop), PREEMPTED if stop.status == "preempted" else INTERRUPTED)
    except EXPLAINED as error:
        if WANTS_TRACEBACK:
            raise
        _leave(explain(error), 1)


@hydra_main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def _run(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        _job(config)
        return
    from refine.experiment import run  # only now: torch takes longer to import than --cfg job
    from refine.report.terminal import Terminal

    terminal = Terminal()
    try:
        run(config, terminal)
        ignore_signals()
    except EXPLAINED as error:  # here: Hydra would say in its own words that a job has failed
        terminal.close()
        if WANTS_TRACEBACK:
            raise
        _leave(explain(error), 1)
    finally:
        terminal.close()


def _resume(directory: Path, asked: Namespace) -> None:
    if asked.multirun:
        raise SettingError("resume", "one run goes on at a time; a sweep started again goes on")
    config = composed(asked.overrides, asked.config_path)
    resume.check_same(directory, config)
    done = resume.epochs_done(directory)
    if done >= config.trainer.epochs:
        print(f"{directory} has finished its {done} epochs; trainer.epochs={done + 1} would go on")
        return
    _run()


def _sweep(asked: Namespace) -> int:
    """Runs a sweep; its exit code."""
    from rich.console import Console

    check_launcher(asked.overrides)
    names, shared = swept(asked.overrides)
    place = _sweep_directory(asked, names, shared)
    console, todo = Console(soft_wrap=True), []
    with console.status("checking the settings of every run"):
        for overrides, config in jobs(asked.overrides, asked.config_path):
            own = [entry for entry in overrides if entry not in shared] or overrides
            todo.append(sweep.Job(" ".join(own), config, place))
    sweep.check(todo, place)
    if todo[0].config.sweep.dry_run:
        sweep.show_plan(todo, console)
        return 0
    quoted = str(place).replace("'", r"\'")
    sys.argv += [f"hydra.sweep.dir='{quoted}'", f"{SHARED_KEYS}=[{','.join(keys_of(shared))}]"]
    problem: Exception | None = None
    with sweep.Watch(todo, console), Signals(at_once=True):
        try:
            _run()
        except Exception as error:  # of a launcher, or of a run that could leave no files
            problem = error
    code = sweep.close(todo, console, lambda text: print(text, end=""))
    if problem and code:
        named = isinstance(problem, EXPLAINED)
        what = explain(problem) if named else f"{type(problem).__name__}: {problem!s:.300}"
        print(f"refine-run: {what}", file=sys.stderr)
    return code


def _sweep_directory(asked: Namespace, names: list[str], shared: list[str]) -> Path:
    """The same for the same sweep, also with other values of what it varies."""
    chosen = given(asked.overrides, "hydra.sweep.dir") or given(asked.overrides, "output_dir")
    if chosen and "${" in chosen:
        raise SettingError("output_dir", f"{chosen}: a sweep has one directory, without ${{...}}")
    if chosen:
        return Path(chosen).expanduser().absolute()
    shared = [entry for entry in shared if not within(entry.partition("=")[0], APART)]
    text = "\n".join([asked.config_path or "", *sorted(names), *sorted(shared)])
    name = (
        ",".join(name.replace("/", "_") for name in sorted(names))[: sweep.NAME_LENGTH] or "one-run"
    )
    mark = hashlib.sha256(text.encode()).hexdigest()[:6]
    return Path(f"results/sweeps/{name}-{mark}").absolute()


def _job(config: DictConfig) -> None:
    """One run of a sweep, in whichever process; a failure is left in the run's directory."""
    hydra = HydraConfig.get()
    directory = sweep.directory(Path(hydra.sweep.dir), hydra.job.override_dirname, config)
    if resume.epochs_done(directory) >= config.trainer.epochs:
        return
    if str(Path.cwd()) not in sys.path:  # a worker's
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
        if not (directory / sweep.SUMMARY_FILE).exists():  # which would say what happened
            raise


def _quoted(override: str) -> str:
    """A directory's name may hold what Hydra's grammar does not; those of sweeps hold = and ,."""
    name, _, text = override.partition("=")
    if name != "resume" or text == "null":
        return override
    bare = text[1:-1] if text[:1] in ("'", '"') and text[-1:] == text[:1] else text
    if not bare:
        raise SystemExit("refine-run: resume: is empty; name the directory of a run")
    return "resume='" + bare.replace("'", r"\'") + "'"


def _leave(message: str, code: int) -> None:
    print(f"refine-run: {message}", file=sys.stderr)
    sys.exit(code)
