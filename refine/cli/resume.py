"""Which run may be gone on with, and as what?"""

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from refine.config import settings
from refine.config.fingerprint import APART, flat, within
from refine.errors import SettingError
from refine.records.rows import CONFIG_FILE, LOCK_FILE
from refine.report import runs

# What may be another when a run goes on; any other change would make it another run.
FREE = ("trainer.epochs", *APART)


def check(directory: Path) -> None:
    """SettingError if there is no run in ``directory``."""
    if not (directory / CONFIG_FILE).is_file():
        there = "holds no run" if directory.is_dir() else "does not exist"
        more = ""
        if (directory / LOCK_FILE).exists():
            more = "; it was stopped before it began, so start it anew in another directory"
        raise SettingError("resume", f"{directory} {there}: there is no {CONFIG_FILE}{more}")


def check_same(directory: Path, config: DictConfig) -> None:
    """SettingError if ``config`` is another than that of the run in ``directory``."""
    text = (directory / CONFIG_FILE).read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    if not isinstance(node, dict):
        raise SettingError("resume", f"{directory / CONFIG_FILE} is damaged: it holds no settings")
    before = dict(flat(node))
    # A stream's tasks share its epochs: with more of them it would be another stream.
    free = FREE if before.get("dataset.split", "none") == "none" else APART
    newer = {name.removesuffix("._target_") for name, _ in settings()} - set(before)  # than the run
    for name, value in flat(OmegaConf.to_container(config, resolve=True)):
        if not within(name, free) and name not in newer and before.get(name) != value:
            raise SettingError(
                name,
                f"was {before.get(name, 'not there')} in {directory} and cannot be {value} now; of "
                f"a run that goes on only these can change: {', '.join(free)}",
            )


def epochs_done(directory: Path) -> int:
    """How many epochs the run in ``directory`` has finished with; 0 if it has not finished, or its
    tables are not what it says."""
    try:
        return runs.read_run(directory).end.epoch
    except runs.Unusable:
        return 0
