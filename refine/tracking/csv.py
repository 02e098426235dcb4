"""What stands for a tracker when no other program receives the measurements?"""

from pathlib import Path
from typing import Any

from refine.records.rows import CycleRow, EpochRow


class Csv:
    """Does nothing: the run's directory has the CSV files with every tracker."""

    def row(self, row: EpochRow | CycleRow, sparsities: dict[str, float]) -> None:
        """Does nothing."""

    def end(self, summary: dict[str, Any], figure_path: Path) -> None:
        """Does nothing."""
