"""The command ``refine-run``; the only module that knows Hydra's command line."""

import os
import re
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from refine.config import GROUPS, RunConfig, config_directory, settings, validate
from refine.errors import SettingError, TrainingError, one_of

FULL_ERROR = "HYDRA_FULL_ERROR"
WANTS_TRACEBACK = os.environ.get(FULL_ERROR, "0") not in ("", "0")
EXPLAINED = (SettingError, TrainingError, HydraException, OmegaConfBaseException, OSError)

ConfigStore.instance().store(name="schema", node=RunConfig)


def main() -> None:
    """Runs the command line; exit code 1 for a mistake in it, 130 for Ctrl-C."""
    asked = get_args_parser().parse_args()
    sys.path.append(str(Path.cwd()))  # one's own models and importances are found here
    os.environ[FULL_ERROR] = "1"  # Hydra shall raise what went wrong, not print it
    if asked.config_path:  # Hydra would look for it beside this file; the last one counts
        asked.config_path = str(Path(asked.config_path).expanduser().absolute())
        sys.argv += ["--config-path", asked.config_path]
    try:
        _check_groups(asked.overrides)
        if asked.help:
            from refine.help import help_text

            print(help_text(composed(asked.overrides, asked.config_path)))
            return
        if asked.multirun:
            sys.argv += [f"hydra.sweep.dir={place}" for place in _sweep_directory(asked.overrides)]
            _check_sweep(asked.overrides, asked.config_path)
        _run()
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except EXPLAINED as error:
        if WANTS_TRACEBACK:
            raise
        _leave(explain(error), 1)


@hydra_main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def _run(config: DictConfig) -> None:
    from refine.experiment import run  # only now: torch takes longer to import than --cfg job
    from refine.report.terminal import Terminal

    hydra = HydraConfig.get()
    sweeping = hydra.mode == RunMode.MULTIRUN
    terminal = Terminal()
    try:
        run(config, terminal, hydra.runtime.output_dir if sweeping else None)
    except EXPLAINED as error:
        terminal.close()
        if WANTS_TRACEBACK or sweeping:  # an exit would end the whole sweep
            raise
        _leave(explain(error), 1)
    finally:
        terminal.close()


def _leave(message: str, code: int) -> None:
    print(f"refine-run: {message}", file=sys.stderr)
    sys.exit(code)


def composed(overrides: list[str], config_path: str | None = None) -> DictConfig:
    """The configuration of ``overrides``, from ``conf/`` or another directory's config.yaml."""
    with initialize_config_dir(config_path or str(config_directory()), version_base="1.3"):
        return compose("config", overrides)


def _check_groups(overrides: list[str]) -> None:
    """A group's option is a word; of null or a number Hydra would only say what it is not."""
    for override in OverridesParser.create().parse_overrides(overrides):
        name, value = override.get_key_element(), override.value()
        if name in GROUPS[:-2] and (value is None or isinstance(value, bool | int | float)):
            known = sorted(path.stem for path in (config_directory() / name).glob("*.yaml"))
            shown = "null" if value is None else str(value)
            raise SettingError(name, f"there is no {shown!r}; {one_of(known, shown)}")


def _sweep_directory(overrides: list[str]) -> list[str]:
    """In a sweep, output_dir is the directory that the runs' own directories are made in."""
    pairs = [entry.lstrip("+").partition("=") for entry in overrides]
    return [value for name, _, value in pairs if name == "output_dir"][-1:]


def _check_sweep(overrides: list[str], config_path: str | None) -> None:
    """Validates every value of a sweep, each with the first values of the others: a mistake in
    the last job shall not wait for the first to be trained."""
    axes = []
    for override in OverridesParser.create().parse_overrides(overrides):
        name = override.get_key_element()
        if override.package is None and str(name).startswith("hydra"):
            continue
        if override.is_sweep_override() and not isinstance(override.value(), Glob):
            axes.append([f"{name}={value}" for value in override.sweep_string_iterator()])
        elif not override.is_sweep_override():
            axes.append([override.input_line])
    first = [axis[0] for axis in axes]
    for position, axis in enumerate(axes):
        for value in axis:
            validate(composed([*first[:position], value, *first[position + 1 :]], config_path))


def explain(error: Exception) -> str:
    """One or two lines that name the setting and what would be right."""
    if isinstance(error, SettingError | TrainingError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"{error.strerror or error}: {error.filename!s:.100}"
    text = f"{error}\n{error.__cause__ or ''}"
    name = (re.search(r"full_key: (\S+)", text) or [None, ""])[1]
    if "Key '" in text and name:
        return _unknown(name)
    if found := re.search(r"Could not find '([^']*)/([^'/]*)'", text):
        group, option = found.groups()
        folder = config_directory() / group
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        return f"{group}: there is no {option!r}; {one_of(known, option)}" if known else text
    if found := re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        value, kind = found.groups()
        kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{name}: must be {kinds.get(kind, kind)}, not {value!r}"
    if "is not Optional" in text:
        return f"{name}: cannot be null"
    if found := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{found[1]}: several values need a sweep, refine-run -m {found[1]}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {error.message.splitlines()[0]}"
    lines = [entry.strip() for entry in text.splitlines() if entry.strip()]
    return "\n".join(lines[:2]).replace("See https", "see https")


def _unknown(name: str) -> str:
    """What to say of a setting that there is not."""
    known = [setting for setting, _ in settings()]
    group, _, key = name.rpartition(".")
    if group in ("model", "trainer.optimizer", "trainer.lr_scheduler"):
        return f"{name}: {group} has no {key!r} yet; to add an argument, write +{name}=..."
    near = [setting for setting in known if setting.rpartition(".")[0] == group]
    if not group:
        near += [option for option in GROUPS if option not in near]
    return f"{name}: there is no such setting; {one_of(near or known, name)}"
