"""What does a study leave? A table of its trials, a figure and the best configuration."""

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from refine.errors import ReportError
from refine.records.files import write_text
from refine.records.rows import CONFIG_FILE
from refine.report.style import save_all
from refine.report.tables import Table, written
from refine.study import database as storage
from refine.study.objective import Objective
from refine.study.picture import picture
from refine.study.progress import settings, shown, state
from refine.study.search import directory_of

TRIALS_FILE, FIGURE_FILE, BEST = "trials.csv", "study.png", "best"
KEPT = (storage.ACCURACY, storage.SPARSITY, storage.EPOCHS, storage.SECONDS, storage.PROBLEM)
ROWS = 5  # of the table on the terminal; a front is shown in full


def write(
    store: storage.Storage, objective: Objective, console: Console, formats: str = "png"
) -> None:
    """Writes trials.csv, study.png and best/config.yaml, and prints the best trials.

    ReportError if no trial has finished, or none reaches the sparsity; then there is no best.
    """
    places = {name: store.directory / name for name in (TRIALS_FILE, FIGURE_FILE, BEST)}
    with store.locked():  # so that no other process writes older results over these
        trials = store.trials()
        best = objective.best(trials)
        table = _table(trials, objective, store.directory)
        write_text(places[TRIALS_FILE], written(table, "csv"))
        save_all(picture(trials, objective), places[FIGURE_FILE], formats)
        if best:
            config = directory_of(best[0], store.directory) / CONFIG_FILE
            places[BEST].mkdir(exist_ok=True)
            write_text(places[BEST] / CONFIG_FILE, config.read_text(encoding="utf-8"))
    if best:
        console.print(written(table, "table"), end="")
    console.print(f"trials  {places[TRIALS_FILE]}")
    console.print(f"figure  {places[FIGURE_FILE]}")
    if best:
        console.print(f"best    refine-run --config-path {places[BEST]}")
        return
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not finished:
        raise ReportError(f"no trial has finished; {places[TRIALS_FILE]} says why")
    top = max(finished, key=lambda trial: trial.values[0])
    raise ReportError(
        f"no trial has {objective.at_sparsity:.1%} sparsity; trial {top.number} is nearest, with "
        f"{top.user_attrs[storage.SPARSITY]:.1%}. Search more cuts, or lower --at-sparsity"
    )


def _table(trials: Sequence[FrozenTrial], objective: Objective, directory: Path) -> Table:
    """The best trials for people, all for programs."""
    best = objective.best(trials)
    ranked = best if objective.at_sparsity is None else objective.ranked(trials)[:ROWS]
    which = "Pareto front" if objective.at_sparsity is None else "The best trials"
    records = [
        {"number": trial.number, "state": state(trial)}
        | settings(trial)
        | {name: trial.user_attrs.get(name) for name in KEPT}
        | {"best": trial in best, "directory": directory_of(trial, Path())}
        for trial in trials
    ]
    cells = [
        [f"trials/{trial.number:04}"]
        + [f"{100 * trial.user_attrs[name]:.2f}" for name in (storage.ACCURACY, storage.SPARSITY)]
        + list(shown(trial).values())
        for trial in ranked
    ]
    header = ["run", "validation", "sparsity", *(settings(ranked[0]) if ranked else ())]
    caption = f"{which} of {directory}, accuracy and sparsity in per cent."
    return Table(caption, header, cells, records)
