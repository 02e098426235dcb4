"""Which options does an export have?"""

from dataclasses import dataclass
from pathlib import Path

FACTS_FILE = "export.json"
DIRECTORY = "export"  # in a run's directory
TOLERANCE = 0.005  # of accuracy, as a fraction
NAMES = ("safetensors", "sparse", "torch", "onnx", "int8", "2:4")


@dataclass(frozen=True)
class Options:
    """The options of ``refine-export``. formats: of NAMES, or None for the usual ones. tolerance:
    how much accuracy 8 bits may cost."""

    run: Path
    to: Path
    formats: tuple[str, ...] | None = None
    fold: bool = False
    keep_dead: bool = False
    dataset_root: str | None = None
    force: bool = False
    tolerance: float = TOLERANCE
