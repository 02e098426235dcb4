"""Which configuration do overrides make, and what is wrong with those that make none?

With refine/cli/run.py the only module that knows Hydra.
"""

import importlib.util
import itertools
import os
import re
import warnings
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from refine.config import GROUPS, RunConfig, config_directory, settings, settle, validate
from refine.config.schedules import having
from refine.errors import SettingError, TrainingError, one_of

EXPLAINED = (
    SettingError,
    TrainingError,
    HydraException,
    OmegaConfBaseException,
    OSError,
    YAMLError,
)

# Extras of the package, and the plugin that each brings.
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
    """The configuration of ``overrides``, from ``conf/`` or another directory's config.yaml."""
    with initialize_config_dir(config_path or str(config_directory()), version_base="1.3"):
        return settled(compose("config", overrides), overrides)


def settled(config: DictConfig, overrides: list[str]) -> DictConfig:
    """``config``, composed of ``overrides``, with the settings that its schedule has."""
    entries = OverridesParser.create().parse_overrides(overrides)
    settle(config, {entry.get_key_element().lstrip("+") for entry in entries})
    return config


def jobs(overrides: list[str], config_path: str | None) -> list[tuple[list[str], DictConfig]]:
    """Every combination of a sweep's values, as overrides and validated configuration: a mistake
    in the last job must not wait until the first has been trained."""
    with initialize_config_dir(config_path or str(config_directory()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        axes = [_values(entry) for entry in parser.parse_overrides(overrides) if not _hydras(entry)]
        found = []
        for job in itertools.product(*axes):
            config = settled(compose("config", list(job)), list(job))
            validate(config)
            found.append((list(job), config))
        return found


def given(overrides: list[str], name: str) -> str | None:
    """The value that ``overrides`` give the setting ``name``, the last one; None without one."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    values = [entry.value() for entry in parsed if entry.get_key_element().lstrip("+") == name]
    return str(values[-1]) if values and values[-1] is not None else None


def swept(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The names of the settings that a sweep varies, and the overrides that all its jobs share."""
    parsed = [o for o in OverridesParser.create().parse_overrides(overrides) if not _hydras(o)]
    names = [entry.get_key_element() for entry in parsed if entry.is_sweep_override()]
    return names, [_line(entry) for entry in parsed if not entry.is_sweep_override()]


def check_launcher(overrides: list[str]) -> None:
    """SettingError if the launcher that a sweep asks for is not installed."""
    name = given(overrides, "hydra/launcher") or "basic"
    extra = name.partition("_")[0]
    if extra in LAUNCHERS and importlib.util.find_spec(LAUNCHERS[extra]) is None:
        raise SettingError(
            "hydra/launcher",
            f"{name} is not installed: pip install 'runtime-refinement[{extra}]'",
        )


def keys_of(overrides: list[str]) -> list[str]:
    """What each of ``overrides`` sets."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [entry.key_or_group for entry in parsed]


def _hydras(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _line(override: Override) -> str:
    """An override as it was typed."""
    return override.input_line or ""


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [_line(override)]
    if not override.is_discrete_sweep():
        raise SettingError(
            override.get_key_element(),
            f"{override.get_value_string()} is no list of values; a sweep takes a,b,c, range or "
            "choice, and refine-study searches an interval",
        )
    name = override.get_key_element()
    return [f"{name}={value}" for value in override.sweep_string_iterator()]


def check_groups(overrides: list[str], config_path: str | None = None) -> None:
    """SettingError for a group's option that is no word, and for any option of a group where a
    run's own configuration has none; Hydra would not say what is right."""
    for override in OverridesParser.create().parse_overrides(overrides):
        name, value = override.get_key_element().lstrip("+"), override.value()
        if name in GROUPS and config_path and not (Path(config_path) / name).is_dir():
            raise SettingError(
                name,
                f"is no group in {config_path}, where every setting has its value; set those, such "
                f"as {name}.…=",
            )
        if name in GROUPS[:-2] and (value is None or isinstance(value, bool | int | float)):
            known = sorted(path.stem for path in (config_directory() / name).glob("*.yaml"))
            shown = "null" if value is None else str(value)
            raise SettingError(name, f"there is no {shown!r}; {one_of(known, shown)}")


def explain(error: Exception) -> str:
    """One or two lines that name the setting and what would be right."""
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
        folder = config_directory() / group
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        return f"{group}: there is no {option!r}; {one_of(known, option)}" if known else text
    if found := re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        value, kind = found.groups()
        kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{name}: must be {kinds.get(kind, kind)}, not {value!r}"
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return f"{name}: cannot be null"
    if found := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{found[1]}: several values need a sweep, refine-run -m {found[1]}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {error.message.splitlines()[0]}"
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
