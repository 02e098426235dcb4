"""How do the measurements of a run reach TensorBoard?"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from refine.records.rows import CycleRow, EpochRow
from refine.tracking.labels import numbers


class TensorBoard:
    """Event files in ``directory/tensorboard``; a step is an epoch.

    In a resumed run, what was logged for epochs after ``start_epoch`` is removed.
    """

    def __init__(self, directory: Path, config: dict[str, Any], start_epoch: int = 0):
        self._writer = SummaryWriter(directory / "tensorboard", purge_step=start_epoch + 1)
        text = yaml.safe_dump(config, sort_keys=False)
        self._writer.add_text("configuration", f"```yaml\n{text}```", start_epoch)

    def row(self, row: EpochRow | CycleRow, sparsities: dict[str, float]) -> None:
        """Adds a scalar for every number and writes them to disk."""
        for name, value in numbers(row, sparsities).items():
            self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def end(self, summary: dict[str, Any], figure_path: Path) -> None:
        """Adds the figure and closes the file."""
        with Image.open(figure_path) as figure:
            pixels = np.asarray(figure.convert("RGB"))
        self._writer.add_image("refinement", pixels, summary["epochs"], dataformats="HWC")
        self._writer.close()
