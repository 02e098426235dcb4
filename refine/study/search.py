"""How is a study carried out? Ask for a trial, run it, record what it measured."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from refine.cli.compose import explain
from refine.errors import SettingError, Stop
from refine.experiment import run
from refine.records.rows import CycleRow, EpochRow
from refine.report.display import Display
from refine.report.remaining import Ahead
from refine.report.terminal import LogOnly
from refine.study import database as storage
from refine.study.database import Storage
from refine.study.objective import Objective
from refine.study.progress import Progress
from refine.study.space import Space, checked

PRUNED = "pruned"


@dataclass(frozen=True)
class Search:
    """What to search, and for how long.

    ``trials`` is their number in all; none is begun after ``timeout`` seconds. In its first
    ``grace`` epochs no trial is stopped.
    """

    space: Space
    objective: Objective
    seed: int
    trials: int
    timeout: float | None
    grace: int


def search(plan: Search, store: Storage, progress: Progress) -> None:
    """Runs trials until there are enough, or the time is over."""
    started = time.monotonic()
    with store.at_work():
        while plan.timeout is None or time.monotonic() - started < plan.timeout:
            trial = store.ask(plan.space, plan.seed, plan.trials)
            if trial is None:
                break
            tried = _try(trial, plan, store, _Watch(trial, plan, store, progress))
            progress.ended(tried, store.trials())


class _Watch(Display):
    """The display of a trial's run, which ends the run if the trial is weak."""

    def __init__(self, trial: Trial, plan: Search, store: Storage, progress: Progress):
        self._trial, self._plan, self._store = trial, plan, store
        self._progress = progress
        self._log = LogOnly()
        self.last: EpochRow | None = None

    def say(self, text: str) -> None:
        """Says something at once."""
        self._log.say(text)

    def begin(self, headline: str, ahead: Ahead) -> None:
        """Training starts."""
        self._epochs = ahead.epochs
        self._log.begin(headline, ahead)
        self._progress.begin(self._trial.number, ahead.epochs)

    def step(self, step: int, steps: int) -> None:
        """Training is at ``step`` of the epoch's ``steps``."""
        self._progress.step(step / steps)

    def show(self, row: EpochRow | CycleRow) -> None:
        """A row was recorded; raises a Stop if the trial is weak."""
        self._log.show(row)
        if not isinstance(row, EpochRow):
            return
        self.last = row
        self._progress.epoch(row)
        objective = self._plan.objective
        if objective.at_sparsity is None or row.epoch == self._epochs:
            return
        assert row.validation_accuracy is not None  # ``checked`` asks for validation images
        trials = self._store.report(self._trial, row.validation_accuracy, row.epoch)
        if objective.weak(trials, trials[self._trial.number], self._plan.grace):
            raise Stop(PRUNED, f"weaker than the median of the trials after epoch {row.epoch}")

    def end(self, summary: dict[str, Any], directory: Path) -> None:
        """The run is over."""


def _try(trial: Trial, plan: Search, store: Storage, watch: _Watch) -> FrozenTrial:
    """Runs a trial and records how it ended; after Ctrl-C that is left to the store."""
    started = time.monotonic()
    kept: dict[str, Any] = {}
    try:
        config = checked(plan.space.overrides(trial.params))
        config.checkpoint.every = 0  # a trial that is killed is never resumed
        summary = run(config, watch, str(directory_of(trial, store.directory)))
        if summary["validation_accuracy"] is None:
            raise SettingError(
                "schedule.stop", "a cycle after the last epoch leaves it unknown how good it is"
            )
        kept[storage.ACCURACY] = summary["validation_accuracy"]
        kept[storage.SPARSITY] = summary["sparsity"]
        state = TrialState.COMPLETE
    except Stop as stop:
        if stop.status != PRUNED:
            raise
        state = TrialState.PRUNED
    except Exception as error:  # whatever is wrong with it, the next trial may be sound
        kept[storage.PROBLEM] = " ".join(explain(error).split()) or type(error).__name__
        state = TrialState.FAIL
    if watch.last is not None:
        kept.setdefault(storage.ACCURACY, watch.last.validation_accuracy)
        kept.setdefault(storage.SPARSITY, watch.last.sparsity)
        kept[storage.EPOCHS] = watch.last.epoch
    kept[storage.SECONDS] = time.monotonic() - started
    return store.tell(trial, state, kept)


def directory_of(trial: Trial | FrozenTrial, directory: Path) -> Path:
    """The directory of the trial's run, in the study's ``directory``."""
    return directory / "trials" / f"{trial.number:04}"
