"""How is Weights & Biases told?"""

from pathlib import Path
from typing import Any

import wandb

from refine.records.rows import CycleRow, EpochRow
from refine.tracking.identity import known_id, remember_id, run_name
from refine.tracking.names import numbers


class WandB:
    """A run of the project; a step is an epoch.

    Of a run that is continued online, an epoch measured twice keeps the numbers of the first time,
    as steps only grow. Offline, each process leaves a directory of its own with the same id, for
    ``wandb sync``; wandb's last 32 kB or so before a SIGKILL are not on disk.
    """

    def __init__(self, directory: Path, config: dict[str, Any], project: str, mode: str):
        self._run = wandb.init(
            project=project,
            name=run_name(directory),
            dir=str(directory),
            config=config,
            mode=mode,
            id=known_id(directory, "wandb"),
            resume="allow" if mode == "online" else None,  # offline there is nobody to ask
            reinit="create_new",  # by default an unfinished run of this process would be taken
            settings=wandb.Settings(silent=True, console="off"),
        )
        remember_id(directory, "wandb", self._run.id)

    def row(self, row: EpochRow | CycleRow, sparsities: dict[str, float]) -> None:
        """Logs every number."""
        if row.epoch >= self._run.starting_step:
            self._run.log(numbers(row, sparsities), step=row.epoch)

    def end(self, summary: dict[str, Any], figure_path: Path) -> None:
        """Logs the figure and the final figures, and waits until they are sent or on disk."""
        try:
            self._run.log({"refinement": wandb.Image(str(figure_path))}, step=summary["epochs"])
            self._run.summary.update(summary)
        finally:
            self._run.finish(exit_code=int(summary["status"] != "finished"))
