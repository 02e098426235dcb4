"""What does a run leave, and where?

A run owns its directory: it makes it, never uses another run's, and removes it if it fails before
it has measured anything. While it runs it holds a lock there, which the system releases if the
process dies.
"""

import contextlib
import csv
import io
import json
import logging
import shutil
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from refine.errors import SettingError
from refine.records.environment import versions
from refine.records.files import append_text, write_json, write_text
from refine.records.rows import (
    CACHE_DIRECTORY,
    CHECKPOINT_FILES,
    CONFIG_FILE,
    CYCLES_FILE,
    EPISODES_FILE,
    EPOCHS_FILE,
    FIGURE_FILE,
    LOCK_FILE,
    LOG_FILE,
    NETWORK_FILE,
    SUMMARY_FILE,
    CycleRow,
    EpisodeRow,
    EpochRow,
)

log = logging.getLogger("refine")
TABLES = {EpochRow: EPOCHS_FILE, CycleRow: CYCLES_FILE, EpisodeRow: EPISODES_FILE}
Row = EpochRow | CycleRow | EpisodeRow
LOCK_SECONDS = 1.0  # a sweep that checks whether a run is running holds its lock for a moment
ENVIRONMENT_FILE = "environment.json"
FILES = (
    EPOCHS_FILE, CYCLES_FILE, EPISODES_FILE, SUMMARY_FILE, LOG_FILE, FIGURE_FILE, CONFIG_FILE,
    ENVIRONMENT_FILE, NETWORK_FILE, LOCK_FILE, "model.safetensors", *CHECKPOINT_FILES,
)  # fmt: skip
# With this header, refine-run --config-path RUN_DIRECTORY accepts a resolved configuration.
RERUN_HEADER = """\
# This run's configuration, resolved. The same run again: refine-run --config-path DIRECTORY
# To resume it where it was stopped: refine-run resume=DIRECTORY
defaults:
  - schema
  - _self_
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none

hydra:
  job: {name: refine-run}
  output_subdir: null
  run: {dir: .}
  sweep: {dir: ., subdir: .}

"""


class Busy(SettingError):
    """Another process is running in the run's directory."""


class RunDirectory:
    """A run's own directory, made when this is constructed; a context that writes ``run.log``.

    ``path=None`` means ``results/runs/<date>/<time>`` below the working directory. SettingError if
    the path is taken or cannot be written. With ``again`` it may hold an earlier part of this run;
    then it is never removed, and a failure is recorded in it.
    """

    def __init__(self, path: str | None, *, again: bool = False):
        self._again = again
        self.keep = again  # the directory stays even if nothing was measured
        self.path, self._lock, self._made = _claim(path, again)
        self._columns: dict[type, list[str]] = {}
        self._ended = False
        self._handler = _LogFile(self.path / LOG_FILE, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)
        log.setLevel(logging.DEBUG)  # tracebacks too; the terminal shows less

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and self._again and not self._ended:
            log.debug("where it failed", exc_info=error)
            if _status(self.path) in (None, "failed"):  # else this run has touched nothing
                with contextlib.suppress(OSError):  # the disk may be what failed
                    self.summarize({"status": "failed", "reason": str(error) or repr(error)})
        log.removeHandler(self._handler)
        with contextlib.suppress(OSError):
            self._handler.close()
        if error_type is not None and EpochRow not in self._columns and not self.keep:
            self._discard()
        self._lock.release()

    def describe(self, config: DictConfig, environment: dict[str, Any]) -> None:
        """Writes ``config.yaml`` (resolved) and ``environment.json``, which lists the later parts
        of a resumed run under ``resumed``."""
        settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        settings |= {"output_dir": None, "resume": None}  # not those of the next start
        write_text(self.path / CONFIG_FILE, RERUN_HEADER + OmegaConf.to_yaml(settings))
        now = versions() | environment
        path = self.path / ENVIRONMENT_FILE
        with contextlib.suppress(OSError, ValueError):  # it does not exist, or is damaged
            first = json.loads(path.read_text(encoding="utf-8"))
            now = first | {"resumed": [*first.get("resumed", []), now]}
        write_json(path, now)

    def begin_again(self, rows: list[Row]) -> None:
        """Rewrites the tables so that they hold only ``rows``, and removes the summary."""
        (self.path / SUMMARY_FILE).unlink(missing_ok=True)
        # A process that was killed while it wrote has left these.
        for part in (*self.path.glob(".*.part"), *self.path.glob(f"{CACHE_DIRECTORY}/.*.part")):
            part.unlink()
        for row_type, name in TABLES.items():
            own = [row for row in rows if isinstance(row, row_type)]
            if own:
                write_text(self.path / name, "".join(self._lines(row) for row in own))
            else:
                (self.path / name).unlink(missing_ok=True)

    def mend(self, rows: list[Row]) -> None:
        """Writes the tables that were changed or removed since anew, with these ``rows``."""
        for row_type, name in TABLES.items():
            own = [row for row in rows if isinstance(row, row_type)]
            self._columns.pop(row_type, None)
            text = "".join(self._lines(row) for row in own)
            path = self.path / name
            if own and not (path.is_file() and path.read_text(encoding="utf-8") == text):
                log.warning("%s was changed during the run, and is written anew", path)
                write_text(path, text)

    def record(self, row: Row) -> None:
        """Appends a row to the table of its type; it is on the disk when this returns."""
        append_text(self.path / TABLES[type(row)], self._lines(row))

    def _lines(self, row: Row) -> str:
        """The row as a line of CSV, after the header if it is the table's first."""
        values = asdict(row)
        first = type(row) not in self._columns
        if first:  # an optional column exists if the first row has a value in it
            optional = {entry.name for entry in fields(row) if entry.default is None}
            self._columns[type(row)] = [
                name for name in values if name not in optional or values[name] is not None
            ]
        text = io.StringIO()
        columns = self._columns[type(row)]
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(values)
        return text.getvalue()

    def summarize(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``, which says that the run has ended, and how."""
        write_json(self.path / SUMMARY_FILE, summary)
        self._ended = True

    def _discard(self) -> None:
        """Removes the run's files, and the directories that were made for it."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / CACHE_DIRECTORY, ignore_errors=True)
        for directory in self._made:
            try:
                directory.rmdir()
            except OSError:  # another run is in it by now
                break


class _LogFile(logging.FileHandler):
    """A log without tracebacks of its own on stderr, which a full disk would cause."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignores that a line could not be written."""


def _status(path: Path) -> str | None:
    """How the run in ``path`` ended, as its summary says."""
    try:
        status: str | None = json.loads((path / SUMMARY_FILE).read_text("utf-8"))["status"]
        return status
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _claim(asked: str | None, again: bool) -> tuple[Path, FileLock, list[Path]]:
    """Makes the run's directory and locks it. Also returns the directories that had to be made,
    innermost first.

    If two processes ask for the same path, one gets the lock and the other an error.
    """
    wanted = Path(asked or f"results/runs/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    attempt = 1
    while True:
        path = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}-{attempt}")
        try:
            path = path.expanduser()
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            if not again and _begun(path):
                raise FileExistsError
            lock = FileLock(path / LOCK_FILE)
            lock.acquire(timeout=LOCK_SECONDS)
            if not again and _begun(path):
                lock.release()
                raise FileExistsError
            return path, lock, made
        except Timeout:
            problem = f"another process is running in {path}; nothing in it was changed"
            raise Busy("output_dir", problem) from None
        except FileExistsError:
            if asked is None:
                attempt += 1  # two runs began in the same second
                continue
            problem = "exists and is not empty" if path.is_dir() else "is not a directory"
            raise SettingError("output_dir", f"{path} {problem}; choose another") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
            reason = getattr(error, "strerror", None) or error
            raise SettingError(
                "output_dir", f"{path!s:.80} cannot be made ({reason}); choose another place"
            ) from None


def _begun(path: Path) -> bool:
    """Whether a run has begun in a directory, or it holds something else: whatever is there before
    ``config.yaml`` was left by a process that was killed at once."""
    early = {LOCK_FILE, LOG_FILE, CACHE_DIRECTORY}
    names = {entry.name for entry in path.iterdir()}
    return any(name not in early and not name.endswith(".part") for name in names)
