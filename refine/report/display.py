"""What is a run shown by? A display; this one shows nothing."""

from pathlib import Path
from typing import Any

from refine.records.rows import CycleRow, EpochRow
from refine.report.remaining import Ahead


class Display:
    """Shows nothing of a run. Others show more of these events; see refine/report/terminal.py."""

    def place(self, directory: Path) -> None:
        """The run is written to ``directory``."""

    def begin(self, headline: str, ahead: Ahead) -> None:
        """Training starts."""

    def step(self, step: int, steps: int) -> None:
        """Training is at ``step`` of the epoch's ``steps``."""

    def phase(self, cycle: int, step: str, done: int, of: int) -> None:
        """Cycle number ``cycle`` is at a ``step``, of which it has ``done`` so many ``of`` all (0:
        it has no parts). Cycle 0: an epoch is being measured."""

    def show(self, row: EpochRow | CycleRow) -> None:
        """A row was recorded."""

    def say(self, text: str) -> None:
        """Says something at once; also within a signal's handler."""

    def end(self, summary: dict[str, Any], directory: Path) -> None:
        """The run is over."""
