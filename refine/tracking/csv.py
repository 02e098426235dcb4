"""What if nobody else is told?"""

from typing import Any


class Csv:
    """Does nothing: the run's directory writes the CSV files, whoever else is told."""

    def row(self, row: Any, sparsities: dict[str, float]) -> None:
        pass

    def end(self, summary: dict[str, Any], figure_path: Any) -> None:
        pass
