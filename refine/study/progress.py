"""How is a study shown while it runs? A line for each trial and, on a terminal, a bar."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from refine.records.rows import EpochRow
from refine.study import database as storage
from refine.study.objective import Objective

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}


def state(trial: FrozenTrial) -> str:
    """How a trial ended, in one word."""
    left = "failed" if storage.PROBLEM in trial.user_attrs else "interrupted"
    return "running" if not trial.state.is_finished() else STATES.get(trial.state, left)


def settings(trial: FrozenTrial) -> dict[str, object]:
    """The trial's values of the searched settings, by name."""
    return {name.lstrip("+"): value for name, value in trial.params.items()}


def shown(trial: FrozenTrial) -> dict[str, str]:
    """The trial's ``settings`` as text; numbers to four digits."""
    return {
        name: f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in settings(trial).items()
    }


class Progress:
    """Shows one trial after another on ``console``."""

    def __init__(self, console: Console, objective: Objective):
        self._console, self._objective = console, objective
        self._bar: Bar | None = None

    def begin(self, number: int, epochs: int) -> None:
        """The run of trial ``number`` starts."""
        if self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn()
            figures = TextColumn("{task.fields[figures]}")
            self._bar = Bar(*columns, figures, console=self._console, transient=True)
            self._task = self._bar.add_task(f"trial {number}, epoch", total=epochs, figures="")
            self._done = 0
            self._bar.start()

    def step(self, share: float) -> None:
        """A ``share`` of the epoch is trained."""
        if self._bar:
            self._bar.update(self._task, completed=self._done + 0.999 * share)

    def epoch(self, row: EpochRow) -> None:
        """An epoch was measured."""
        if self._bar:
            self._done = row.epoch
            figures = f"validation {row.validation_accuracy:.1%}  sparsity {row.sparsity:.1%}"
            self._bar.update(self._task, completed=row.epoch, figures=figures)

    def ended(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
        """A trial has ended; ``trials`` are all of the study."""
        self.close()
        parts = [f"trial {trial.number}"]
        parts += [f"{name}={value}" for name, value in shown(trial).items()]
        kept = trial.user_attrs
        if problem := kept.get(storage.PROBLEM):
            parts.append(f"failed: {problem}")
        else:
            if trial.state == TrialState.PRUNED:
                parts.append(f"stopped early, after epoch {kept[storage.EPOCHS]}")
            parts.append(f"validation {kept[storage.ACCURACY]:.2%}")
            parts.append(f"sparsity {kept[storage.SPARSITY]:.1%}")
        parts += [f"{kept[storage.SECONDS]:.1f} s", self._so_far(trials)]
        self._console.print("  ".join(parts))

    def close(self) -> None:
        """Takes the bar off the screen."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _so_far(self, trials: Sequence[FrozenTrial]) -> str:
        best = self._objective.best(trials)
        if self._objective.at_sparsity is None:
            return f"front: {len(best)}"
        if not best:
            return "best: none yet"
        return f"best: trial {best[0].number}, {best[0].user_attrs[storage.ACCURACY]:.2%}"
