"""Which trials does a study have? It is on disk, and several processes can share it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from refine.errors import SettingError
from refine.records.files import uninterrupted
from refine.study.lock import at_work, living, locked
from refine.study.objective import Objective
from refine.study.space import Space

NAME, JOURNAL, LOCK, PROCESSES = "refine-study", "study.journal", ".lock", ".processes"
# Keys of what is kept of a trial beside its values. A failed trial without PROBLEM was abandoned by
# its process and does not count.
OWNER, PROBLEM, ACCURACY, SPARSITY, EPOCHS, SECONDS = (
    "process", "problem", "validation_accuracy", "sparsity", "epochs", "seconds",
)  # fmt: skip


class Storage:
    """The study in ``directory``, which is made if there is none.

    ``command``: the options and overrides that make it this study. SettingError if the directory
    cannot be written, or holds something else or a study of another command.
    """

    def __init__(self, directory: Path, command: list[str], objective: Objective):
        self.directory = directory
        self._objective = objective
        self._lock = directory / LOCK
        journal = directory / JOURNAL
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if {path.name for path in directory.iterdir()} - {LOCK} and not journal.is_file():
                _refuse(f"{directory} holds something other than a study; choose another")
            with locked(self._lock):
                self._open(journal, command)
        except FileExistsError:
            _refuse(f"{directory} is not a directory; choose another")
        except OSError as error:
            _refuse(f"{directory} cannot be written ({error.strerror}); choose another place")

    def _open(self, journal: Path, command: list[str]) -> None:
        try:
            backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
            storage = JournalStorage(backend)
            if not storage.get_all_studies():
                directions = self._objective.directions
                optuna.create_study(storage=storage, study_name=NAME, directions=directions)
            self._study = optuna.load_study(storage=storage, study_name=NAME)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            _refuse(f"{journal} cannot be read ({error}); it is damaged or not a study's")
        begun = self._study.user_attrs.get("command")
        if begun is None:
            self._study.set_user_attr("command", command)
        elif begun != command:
            theirs = next((part for part in begun if part not in command), "less")
            ours = next((part for part in command if part not in begun), "less")
            _refuse(
                f"{self.directory} was begun with {theirs}, and here is {ours}; "
                "repeat its command to continue it or choose another"
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A block in which this process runs trials; those still running at its end have failed."""
        with at_work(self.directory / PROCESSES, self._lock) as self._process:
            try:
                yield
            finally:
                with locked(self._lock), uninterrupted():
                    self._close(lambda owner: owner == self._process)

    def locked(self) -> AbstractContextManager[None]:
        """A block that one process at a time is in."""
        return locked(self._lock)

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        with uninterrupted():  # here and below, because Optuna may turn Ctrl-C into another error
            return self._study.get_trials(deepcopy=False)

    def ask(self, space: Space, seed: int, limit: int) -> Trial | None:
        """A new trial with its values; None if ``limit`` trials count already."""
        with locked(self._lock), uninterrupted():
            alive = living(self.directory / PROCESSES)
            self._close(lambda owner: owner not in alive)
            trials = self.trials()
            if sum(_counts(trial) for trial in trials) >= limit:
                return None
            self._study.sampler = self._objective.sampler(seed, len(trials))
            trial = self._study.ask(space.searched)
            trial.set_user_attr(OWNER, self._process)
            return trial

    def report(self, trial: Trial, accuracy: float, epoch: int) -> list[FrozenTrial]:
        """Keeps a running trial's validation accuracy; all trials, including it."""
        with uninterrupted():
            trial.report(accuracy, epoch)
        return self.trials()

    def tell(self, trial: Trial, state: TrialState, kept: dict[str, Any]) -> FrozenTrial:
        """Ends a trial in ``state``; what is kept of it is by the keys above."""
        values = None
        if state == TrialState.COMPLETE:
            values = self._objective.values(kept[ACCURACY], kept[SPARSITY])
        with uninterrupted():
            for key, value in kept.items():
                trial.set_user_attr(key, value)
            return self._study.tell(trial, values, state)

    def _close(self, theirs: Callable[[str | None], bool]) -> None:
        """Fails the running trials whose process is one of ``theirs``."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and theirs(trial.user_attrs.get(OWNER)):
                self._study.tell(trial.number, state=TrialState.FAIL)


def _counts(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL or PROBLEM in trial.user_attrs


def _refuse(problem: str) -> NoReturn:
    raise SettingError("--directory", problem)
