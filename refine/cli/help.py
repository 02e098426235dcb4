"""What does ``refine-run --help`` say? Made from ``conf/`` and the schema, so it stays true."""

import textwrap
from dataclasses import Field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from refine.config import GROUPS, config_directory, settings
from refine.config.instantiate import imported
from refine.config.schedules import TARGET, options, settings_of, whole
from refine.setting import allowed

INTRODUCTION = """\
refine-run trains a network. At the epochs that a schedule names it refines the network: it scores
the weights, scales them down, cuts the least important and trains on hard examples. It writes the
measurements of every epoch (metrics.csv) and cycle (cycles.csv), a figure of both (refinement.png)
and the network (model.safetensors) into a directory of its own.

Usage: refine-run [-m] [GROUP=OPTION ...] [SETTING=VALUE ...]

Examples
  refine-run                                         SimpleCNN on the digits, about half a minute
  refine-run experiment=paper                        the published experiment on CIFAR-10
  refine-run model=resnet18 dataset=cifar10 trainer=sgd_one_cycle schedule.interval=4
  refine-run replay=reservoir distillation=self recovery=slr cache=disk
  refine-run pruner=structured pruner.target_speedup=2       cuts channels: a smaller network
  refine-run experiment=continual replay=herding     two digits at a time: what is forgotten
  refine-run -m pruner.ratio=0.1,0.15,0.2 schedule.interval=3,5,10    a run for every pair
  refine-run resume=results/runs/2026-01-31/12-00-00         goes on with a run that was stopped
"""
FLAGS = """\
Flags
  -m, --multirun       a sweep: a run for every combination of comma-separated values; finished
                       runs are skipped, others resumed (sweep.dry_run=true lists them)
  --cfg job            print the configuration and stop
  --config-path DIR    run the config.yaml in DIR, such as an earlier run's directory, again
  --hydra-help         what Hydra itself can do
SIGTERM, SIGUSR1 and Ctrl-C save at the next step and stop; Ctrl-C twice stops at once.
Errors are one or two lines; HYDRA_FULL_ERROR=1 shows the traceback. Exit codes: 0 done, 1 error,
2 unknown flag, 75 stopped by SIGTERM or SIGUSR1 (the same command, or resume=, resumes it), 130
interrupted."""


def help_text(config: DictConfig) -> str:
    """The help for people; the defaults shown are those of ``config``."""
    return "\n".join([INTRODUCTION, _groups(), _settings(config), _schedules(), FLAGS])


def _groups() -> str:
    lines = ["Groups: each is chosen by one word, such as pruner=random"]
    for group in (*GROUPS, "hydra/launcher"):
        for path in sorted((config_directory() / group).glob("*.yaml")):
            comments = [
                line[2:]
                for line in path.read_text(encoding="utf-8").splitlines()
                if line.startswith("# ") and "@package" not in line
            ]
            lines.append(_entry(f"{group}={path.stem}", comments[0], 26))
    return "\n".join([*lines, ""])


def _settings(config: DictConfig) -> str:
    lines = ["Settings: name=default, meaning, and allowed values"]
    for name, entry in settings():
        value = OmegaConf.select(config, name, throw_on_missing=False)
        if isinstance(value, DictConfig):
            lines.append(_entry(f"{name}.…", entry.metadata["meaning"], 36))
            lines += [f"    {name}.{key!s}={_shown(inner)}" for key, inner in value.items()]
            continue
        lines.append(_entry(f"{name}={_shown(value)}", _meaning(entry), 36))
        lines += _choices(entry)
    return "\n".join([*lines, ""])


def _schedules() -> str:
    lines = ["Settings of each schedule: names and defaults, then their meanings"]
    meanings: dict[tuple[str, str], list[str]] = {}
    entries: dict[str, Field[Any]] = {}
    for option, node in options().items():
        values = whole(option)
        own = settings_of(imported("schedule", node[TARGET]))
        given = "  ".join(f"{key}={_shown(values[key])}" for key in own)
        lines.append(_entry(f"schedule={option}", given or "none", 26))
        for key, entry in own.items():
            meanings.setdefault((key, _meaning(entry)), []).append(option)
            entries[key] = entry
    order = list(entries)
    for (key, meaning), with_it in sorted(meanings.items(), key=lambda it: order.index(it[0][0])):
        several = [name for name, _ in meanings].count(key) > 1
        whose = f"for {', '.join(with_it)}: " if several else ""
        lines.append(_entry(f"schedule.{key}", whose + meaning, 36))
        lines += _choices(entries[key])
    return "\n".join([*lines, ""])


def _meaning(entry: Field[Any]) -> str:
    """What a setting means, and what it may hold."""
    held = allowed(entry)
    return entry.metadata["meaning"] + (f" ({held})" if held else "")


def _choices(entry: Field[Any]) -> list[str]:
    """A line for each choice that a setting has."""
    choices = entry.metadata.get("choices") or {}
    return [_entry("", f"{choice}: {what}", 38) for choice, what in choices.items()]


def _entry(name: str, meaning: str, column: int) -> str:
    """A name and, from ``column`` on, its meaning, wrapped; on a line of its own if it is long."""
    start = f"  {name}"
    indent = " " * column
    text = textwrap.fill(meaning, 100, initial_indent=indent, subsequent_indent=indent)
    return start + text[len(start) :] if len(start) + 2 <= column else f"{start}\n{text}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
