"""Runs the same experiment for several seeds, one after another in this process; what has finished
with the same configuration is not run again."""

import time
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from refine.cli import EXPLAINED, composed, explain
from refine.experiment import run
from refine.report.runs import Run, Unusable, read_run
from refine.report.terminal import Terminal


def run_seeds(home: Path, overrides: list[str], seeds: list[int]) -> tuple[list[Run], float]:
    """The finished runs below ``home``, one a seed, and the seconds that they took now.

    SystemExit, with one line, for a setting that cannot be followed.
    """
    started = time.perf_counter()
    done = []
    for seed in seeds:
        directory = home / f"seed-{seed}"
        try:
            config = composed([*overrides, f"seed={seed}", f"output_dir={directory}"])
            if not _finished(directory, OmegaConf.to_container(config, resolve=True)):
                run(config, Terminal())
        except EXPLAINED as error:
            raise SystemExit(explain(error)) from None
        done.append(read_run(directory))
    return done, time.perf_counter() - started


def _finished(directory: Path, config: dict) -> bool:
    """Whether ``directory`` holds a finished run of ``config``; SystemExit if it is another's."""
    if not directory.exists():
        return False
    try:
        read_run(directory)
    except Unusable as reason:
        raise SystemExit(f"{directory} is in the way ({reason}); remove it") from None
    config = {key: value for key, value in config.items() if key != "output_dir"}
    there = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    if {key: there.get(key) for key in config} != config:
        raise SystemExit(f"{directory} was run with other settings; remove it or set home=DIR")
    return True
