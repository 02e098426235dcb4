"""Which run may be resumed, and with which changes?"""

from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig

from refine.config import settings
from refine.config.fingerprint import plain
from refine.config.schedules import chosen, settings_of
from refine.errors import SettingError
from refine.records.rows import CHECKPOINT_FILES, CONFIG_FILE, LOCK_FILE
from refine.report import runs
from refine.setting import APART, flat, path_of, within

# What may change when a run is resumed; any other change would make it another run.
FREE = ("trainer.epochs", *APART)


def check(directory: Path) -> None:
    """SettingError if there is no run in ``directory``."""
    if not (directory / CONFIG_FILE).is_file():
        there = "holds no run" if directory.is_dir() else "does not exist"
        more = ""
        if (directory / LOCK_FILE).exists():
            more = "; it was stopped before it began, so start it again in another directory"
        raise SettingError("resume", f"{directory} {there}: there is no {CONFIG_FILE}{more}")


def place_of(config: DictConfig, directory: str | None) -> str | None:
    """Where the run of ``config`` is made: what it resumes, the ``directory`` or its output_dir.

    SettingError unless ``config.resume`` holds a run of the same configuration that has not
    finished; a finished one is never written to.
    """
    if config.resume is None:
        return directory or cast(str | None, config.output_dir)
    if directory is not None:
        raise SettingError("resume", f"{config.resume}: this run is made in {directory}")
    earlier = path_of("resume", config.resume)
    check(earlier)
    check_same(earlier, config)
    done = epochs_done(earlier)
    if done >= config.trainer.epochs:
        raise SettingError("resume", finished(earlier, done))
    return str(earlier)


def finished(directory: Path, done: int) -> str:
    """What to say of a run that has finished its epochs."""
    more = f"trainer.epochs={done + 1} would train it further"
    if not any((directory / name).exists() for name in CHECKPOINT_FILES):
        more = "it kept no checkpoint to train further from, as checkpoint.keep=true would have"
    return f"{directory} has finished its {done} epochs; {more}"


def check_same(directory: Path, config: DictConfig) -> None:
    """SettingError if ``config`` makes another run than the one in ``directory``."""
    text = (directory / CONFIG_FILE).read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    if not isinstance(node, dict):
        raise SettingError("resume", f"{directory / CONFIG_FILE} is damaged: it holds no settings")
    before = dict(flat(node))
    # A stream's tasks share its epochs: with more of them it would be another stream.
    free = FREE if before.get("dataset.split", "none") == "none" else APART
    known = {name.removesuffix("._target_") for name, _ in settings()}
    known |= {f"schedule.{name}" for name in settings_of(chosen(config))}
    newer = known - set(before)  # than the run
    for name, value in flat(plain(config)):
        if not within(name, free) and name not in newer and before.get(name) != value:
            raise SettingError(
                name,
                f"was {before.get(name, 'not there')} in {directory} and cannot be {value} now; "
                f"when a run is resumed only these can change: {', '.join(free)}",
            )


def epochs_done(directory: Path) -> int:
    """How many epochs the run in ``directory`` has finished with; 0 if it has not finished, or its
    tables are not what it says."""
    try:
        return runs.read_run(directory).end.epoch
    except runs.Unusable:
        return 0


def epoch_of(state: dict[str, Any], epochs: int, asked: bool) -> int:
    """The epoch that a checkpoint's ``state`` has reached. SettingError if the run is to have fewer
    ``epochs``, or the state is no run's. asked: whether resume= was given."""
    position = state.get("position")
    found: list[Any] = (
        [position.get(name) for name in ("epoch", "step")] if isinstance(position, dict) else []
    )
    if not found or not all(isinstance(number, int) and number >= 0 for number in found):
        raise SettingError("resume", "the checkpoint is not of a run: it has no position")
    epoch, step = found
    if epoch + (step > 0) > epochs:
        problem = f"is {epochs}, and this run has done {epoch}; set it higher"
        if not asked:
            problem = f"is {epochs}, and resume= has brought this run to {epoch}; use resume="
        raise SettingError("trainer.epochs", problem)
    return int(epoch)


def seconds_of(state: dict[str, Any] | None) -> float:
    """How long the run has taken until a checkpoint's ``state``; 0 if it does not say."""
    found = (state or {}).get("seconds", 0.0)
    return float(found) if isinstance(found, int | float) and 0 <= found < 1e12 else 0.0
