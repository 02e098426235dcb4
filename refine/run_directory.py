"""What does a run leave, and where?

A run owns its directory: it makes it, never takes another run's, and removes it again if it fails
before it has measured anything.
"""

import csv
import json
import logging
import math
import os
import platform
import subprocess
import sys
from dataclasses import asdict, fields
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import refine
from refine.errors import SettingError
from refine.files import write_text
from refine.rows import (
    CONFIG_FILE,
    CYCLES_FILE,
    EPOCHS_FILE,
    FIGURE_FILE,
    LOG_FILE,
    SUMMARY_FILE,
    CycleRow,
    EpochRow,
)

log = logging.getLogger("refine")
PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "safetensors")
FILES = (
    EPOCHS_FILE, CYCLES_FILE, SUMMARY_FILE, LOG_FILE, FIGURE_FILE, CONFIG_FILE,
    "environment.json", "model.safetensors",
)  # fmt: skip
# What makes a resolved configuration one that refine-run takes: --config-path RUN_DIRECTORY.
RERUN_HEADER = """\
# This run's configuration, resolved. The same run again: refine-run --config-path DIRECTORY
defaults:
  - schema
  - _self_
  - override hydra/job_logging: none

hydra:
  job:
    name: refine-run
    config: {override_dirname: {exclude_keys: [output_dir, dataset.root, device, save_model,
             tracker, tracker.project, tracker.uri, tracker.mode]}}
  output_subdir: null
  run: {dir: .}
  sweep:
    dir: results/sweeps/${now:%Y-%m-%d}/${now:%H-%M-%S}
    subdir: ${hydra.job.override_dirname}

"""


class RunDirectory:
    """A run's own directory, made at once; a context that keeps ``run.log``.

    ``path=None`` means ``results/runs/<date>/<time>`` below the working directory. SettingError if
    the path is taken or cannot be written.
    """

    def __init__(self, path: str | None):
        self.path, self._made = _claim(path)
        self._columns: dict[type, list[str]] = {}
        self._handler = logging.FileHandler(self.path / LOG_FILE, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)
        log.setLevel(logging.DEBUG)  # tracebacks too; the terminal shows less

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: type | None, error: object, traceback: object) -> None:
        log.removeHandler(self._handler)
        self._handler.close()
        if kind is not None and EpochRow not in self._columns:  # nothing was measured
            self._discard()

    def describe(self, config: DictConfig, environment: dict[str, Any]) -> None:
        """Writes ``config.yaml`` (resolved) and ``environment.json``."""
        settings = OmegaConf.to_container(config, resolve=True)
        settings["output_dir"] = None  # the same run again has a directory of its own
        write_text(self.path / CONFIG_FILE, RERUN_HEADER + OmegaConf.to_yaml(settings))
        write_text(self.path / "environment.json", _json(versions() | environment))

    def record(self, row: EpochRow | CycleRow) -> None:
        """Appends a row to ``metrics.csv`` or ``cycles.csv`` and flushes it to the disk."""
        values = asdict(row)
        path = self.path / (EPOCHS_FILE if isinstance(row, EpochRow) else CYCLES_FILE)
        first = type(row) not in self._columns
        if first:  # optional columns are there if the first row has them
            optional = {entry.name for entry in fields(row) if entry.name.startswith("validation_")}
            self._columns[type(row)] = [
                name for name in values if name not in optional or values[name] is not None
            ]
        columns = self._columns[type(row)]
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            if first:
                writer.writeheader()
            writer.writerow(values)
            file.flush()
            os.fsync(file.fileno())

    def summarize(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``; only a run that has ended has one."""
        write_text(self.path / SUMMARY_FILE, _json(summary))

    def _discard(self) -> None:
        """Removes the run's files and the directories that were made for it."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for directory in self._made:
            try:
                directory.rmdir()
            except OSError:  # another run has come into it
                break


def _claim(asked: str | None) -> tuple[Path, list[Path]]:
    """Makes the run's directory, and says which directories had to be made, innermost first.

    A directory belongs to the run that created ``run.log`` in it, so that of two processes with
    the same path one is told.
    """
    wanted = Path(asked or f"results/runs/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    attempt = 1
    while True:
        path = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}-{attempt}")
        try:
            path = path.expanduser()
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise FileExistsError
            (path / LOG_FILE).touch(exist_ok=False)
            return path, made
        except FileExistsError:
            if asked is None:
                attempt += 1  # two runs began in the same second
                continue
            problem = "exists and is not empty" if path.is_dir() else "is not a directory"
            raise SettingError("output_dir", f"{path} {problem}; choose another") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: ~somebody who does not exist
            reason = getattr(error, "strerror", None) or error
            raise SettingError(
                "output_dir", f"{path!s:.80} cannot be made ({reason}); choose another place"
            ) from None


def versions() -> dict[str, Any]:
    """Versions of what runs, the git commit of the package's checkout, and the command."""
    return {
        "runtime-refinement": refine.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _git_commit() -> str | None:
    """The commit of the checkout that the package runs from, + if it was changed since."""
    home = Path(refine.__file__).parent
    try:
        if not (home.parent / ".git").exists():
            return None
        ask = ["git", "-C", str(home), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(
            ask, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """``value`` with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
