"""How do the measurements of a run reach Weights & Biases?"""

from pathlib import Path
from typing import Any

import wandb

from refine.records.rows import CycleRow, EpochRow
from refine.tracking.identity import known_id, remember_id, run_name
from refine.tracking.labels import numbers


class WandB:
    """A run of the project; a step is an epoch.

    In a run that is resumed online, an epoch that is measured twice keeps the numbers of the first
    time, as steps only increase. Offline, each process leaves its own directory with the same id,
    for ``wandb sync``. After a SIGKILL the last 32 kB or so are missing from it.
    """

    def __init__(self, directory: Path, config: dict[str, Any], project: str, mode: str):
        self._run = wandb.init(
            project=project,
            name=run_name(directory),
            dir=str(directory),
            config=config,
            mode=mode,
            id=known_id(directory, "wandb"),
            resume="allow" if mode == "online" else None,  # offline there is no server to ask
            reinit="create_new",  # the default would continue an unfinished run of this process
            settings=wandb.Settings(silent=True, console="off"),
        )
        remember_id(directory, "wandb", self._run.id)

    def row(self, row: EpochRow | CycleRow, sparsities: dict[str, float]) -> None:
        """Logs every number."""
        if row.epoch >= self._run.starting_step:
            self._run.log(numbers(row, sparsities), step=row.epoch)

    def end(self, summary: dict[str, Any], figure_path: Path) -> None:
        """Logs the figure and the final numbers, and waits until they are sent or on disk."""
        try:
            self._run.log({"refinement": wandb.Image(str(figure_path))}, step=summary["epochs"])
            self._run.summary.update(summary)
        finally:
            self._run.finish(exit_code=int(summary["status"] != "finished"))
