"""Which configuration do overrides make, and what is wrong with those that make none?

With refine/cli/overrides.py and refine/cli/run.py it knows Hydra.
"""

import importlib.util
import os
import re
import warnings
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from refine.cli.guesses import check_names, options_of
from refine.cli.idle import Idle
from refine.cli.overrides import combinations, given, names, read
from refine.config import GROUPS, RunConfig, config_directory, settings, settle, validate
from refine.config.in_vain import left_open, reset_, without_effect
from refine.config.schedules import having
from refine.config.validate import unresolved
from refine.errors import SettingError, TrainingError, one_of
from refine.records.rows import CONFIG_FILE
from refine.setting import flat, number_meant

EXPLAINED = (
    SettingError,
    TrainingError,
    HydraException,
    OmegaConfBaseException,
    OSError,
    YAMLError,
)

LONG_VALUE = re.compile(r"\S{300,}")
# Extras of the package, and the plugin that each brings.
# At the top of every config.yaml that a run leaves, of any version, and hardly all in one that a
# person wrote.
WRITTEN_BY_RUNS = {"seed", "device", "output_dir", "save_model", "model"}
HYDRAS_OWN = ("defaults", "hydra")
LAUNCHERS = {name: f"hydra_plugins.hydra_{name}_launcher" for name in ("joblib", "submitit", "ray")}

SCHEMA = OmegaConf.structured(RunConfig)
OmegaConf.set_struct(SCHEMA.schedule, False)  # what may stand there, the chosen schedule says
ConfigStore.instance().store(name="schema", node=SCHEMA)


def workers() -> int:
    """How many runs at a time this machine takes: one a GPU, or one a core where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([entry for entry in visible.split(",") if entry.strip() not in ("", "-1")])
    else:  # counted without torch, which takes seconds to import
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return gpus or cores or 1


# Our presets have the plugins' own names, which Hydra takes for a schema of an old version.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/.*' is validated against ConfigStore")
OmegaConf.register_new_resolver("refine.workers", workers, replace=True)


def composed(overrides: list[str], config_path: str | None = None) -> DictConfig:
    """The configuration of ``overrides``, from ``conf/`` or another directory's config.yaml.
    SettingError for a setting that is given and has no effect."""
    check_groups(overrides, config_path)
    with initialize_config_dir(config_path or str(config_directory()), version_base="1.3"):
        return settled(compose("config", overrides), overrides, config_path)


def settled(config: DictConfig, overrides: list[str], config_path: str | None = None) -> DictConfig:
    """``config``, composed of ``overrides``, with the settings that its schedule has. SettingError
    for a setting that is given, there or in a file of one's own, and has no effect."""
    given = names(overrides)
    settle(config, given)
    for error in without_effect(config, meant({*written(config_path), *given})).values():
        raise error
    if config.sweep.dry_run:
        raise SettingError("sweep.dry_run", "lists the runs of refine-run -m")
    reset_(config, left_open(config))
    return config


def meant(given: set[str]) -> list[str]:
    """The names in ``given`` that are to have an effect; a control is what its run is compared
    with by the same command, whatever that says of the pruner."""
    return sorted(n for n in given if "control" not in given or not n.startswith("pruner."))


def tolerated(
    config: DictConfig, overrides: list[str], *, reset: bool = True
) -> dict[str, SettingError]:
    """Settles the configuration of one of several runs. A given setting that has no effect in it
    gets its default, with ``reset``, and is returned with its error: it may have one in others."""
    idle: dict[str, SettingError] = {}
    given = names(overrides)
    settle(config, given, idle)
    others = without_effect(config, meant(given - {"sweep.dry_run"}))
    reset_(config, [*(others if reset else ()), *left_open(config)])
    return idle | others


def written(config_path: str | None) -> list[str]:
    """The settings in a config.yaml that a person wrote; a run's own file has every one of them,
    also those without effect."""
    if config_path is None or Path(config_path) == config_directory():
        return []
    try:
        text = (Path(config_path) / CONFIG_FILE).read_text(encoding="utf-8")
        node = yaml.safe_load(text)
    except (OSError, ValueError, YAMLError, RecursionError):
        return []  # Hydra says what is wrong
    if not isinstance(node, dict) or node.keys() >= WRITTEN_BY_RUNS:
        return []
    return [name for name, _ in flat(node) if name.partition(".")[0] not in HYDRAS_OWN]


def tried(
    overrides: list[str], *, reset: bool = True
) -> tuple[DictConfig, dict[str, SettingError]]:
    """The configuration of one of several runs, and what was given in vain; see ``tolerated``."""
    check_groups(overrides)
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("config", overrides)
        return config, tolerated(config, overrides, reset=reset)


def jobs(
    overrides: list[str], config_path: str | None
) -> tuple[list[tuple[list[str], DictConfig]], list[str]]:
    """Every combination of a sweep's values, as overrides and validated configuration: a mistake
    in the last job must not wait until the first has been trained. Of combinations that differ only
    in what has no effect there, the first is kept.

    Also what is to be said: settings without effect in some of the runs. SettingError for one that
    has none in any of them.
    """
    with initialize_config_dir(config_path or str(config_directory()), version_base="1.3"):
        found, idle = [], Idle()
        entries = read(overrides, GlobalHydra.instance().config_loader())
        for job in combinations(entries):
            config = compose("config", job)
            in_vain = tolerated(config, job)
            validate(config)
            if config.resume is not None:
                problem = "resumes one run; a sweep resumes when it is started again"
                raise SettingError("resume", problem)
            if idle.is_new(config, in_vain):
                found.append((job, config))
        return found, idle.notes()


def check_launcher(overrides: list[str]) -> None:
    """SettingError if the launcher that a sweep asks for is not installed."""
    name = given(overrides, "hydra/launcher") or "basic"
    extra = name.partition("_")[0]
    if extra in LAUNCHERS and importlib.util.find_spec(LAUNCHERS[extra]) is None:
        raise SettingError(
            "hydra/launcher",
            f"{name} is not installed: pip install 'runtime-refinement[{extra}]'",
        )


def check_groups(overrides: list[str], config_path: str | None = None) -> None:
    """SettingError for a group's option that is no word, and for any option of a group where a
    run's own configuration has none; Hydra would not say what is right."""
    for override in read(overrides):
        name, value = override.get_key_element().lstrip("+"), override.value()
        if name in GROUPS and config_path and not (Path(config_path) / name).is_dir():
            raise SettingError(
                name,
                f"is no group in {config_path}, where every setting has its value; set those, such "
                f"as {name}.…=",
            )
        if not (config_path or override.is_delete() or override.is_add()):
            check_names([(name, override.get_value_string())])
        if name not in GROUPS or (value is None and name in GROUPS[-2:]):
            continue
        for option in value if isinstance(value, list) else (value,):
            if option is None or isinstance(option, bool | int | float) or "${" in str(option):
                known = options_of(name)
                shown = "null" if option is None else str(option)
                raise SettingError(name, f"there is no {shown!r}; {one_of(known, shown)}")


def explain(error: Exception) -> str:
    """One or two lines that name the setting and what would be right."""
    return LONG_VALUE.sub(lambda found: f"{found[0][:60]}…", _explain(error))


def _explain(error: Exception) -> str:
    if isinstance(error, SettingError | TrainingError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"{error.strerror or error}: {error.filename!s:.100}"
    if isinstance(error, YAMLError):
        return f"a configuration is not valid YAML: {' '.join(str(error).split()):.200}"
    text = f"{error}\n{error.__cause__ or ''}"
    name = (re.search(r"full_key: (\S+)", text) or [None, ""])[1]
    if "Key '" in text and name:
        return _unknown(name)
    if found := re.search(r"Could not find '([^']*)/([^'/]*)'", text):
        group, option = found.groups()
        known = options_of(group)
        return f"{group}: there is no {option!r}; {one_of(known, option)}" if known else text
    if found := re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        value, kind = found.groups()
        kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{name}: must be {kinds.get(kind, kind)}, not {value!r}" + number_meant(value)
    if isinstance(error, InterpolationResolutionError):
        return f"{name}: {unresolved(error)}"
    if found := re.search(r"Value '(.*)' is not a valid bool", text):
        return f"{name}: must be true or false, not {found[1]!r}"
    if found := re.search(r"Cannot convert '.*' to string: '(.*)'", text):
        return f"{name}: must be text, not {found[1]}"
    if "Cannot assign" in text or "is not a subclass of Dict" in text:
        return f"{name}: holds settings of its own; give those, such as {name}._target_="
    if found := re.match(r"Error merging override ([^=]*)=(.*)", text):
        return f"{found[1]}: cannot be {found[2]}"
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return f"{name}: cannot be null"
    if found := re.search(r"Ambiguous value for argument '([^']*)'", text):
        decimal = re.fullmatch(r"(\S+=-?\d+),(\d+)", found[1])
        point = f", and a number has a point, {decimal[1]}.{decimal[2]}" if decimal else ""
        return f"{found[1]}: several values need a sweep, refine-run -m {found[1]}{point}"
    lines = [entry.strip() for entry in text.splitlines() if entry.strip()]
    return "\n".join(lines[:2]).replace("See https", "see https")


def _unknown(name: str) -> str:
    """What to say of a setting that does not exist."""
    known = [setting for setting, _ in settings()]
    group, _, key = name.rpartition(".")
    if group == "schedule" and (others := having(key)):
        return f"{name}: this run's schedule has no such setting; {', '.join(others)} have {key}"
    if group in ("model", "trainer.optimizer", "trainer.lr_scheduler"):
        return f"{name}: {group} has no {key!r} yet; to add an argument, write +{name}=..."
    near = [setting for setting in known if setting.rpartition(".")[0] == group]
    if not group:
        near += [option for option in GROUPS if option not in near]
    return f"{name}: there is no such setting; {one_of(near or known, name)}"
