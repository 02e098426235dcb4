"""What does one call of ``refine-bench`` compare, and with which results?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refine.bench.candidates import of_runs
from refine.bench.environment import environment
from refine.bench.forms import forms
from refine.bench.names import USUAL_ON_CPU, USUAL_ON_GPU
from refine.bench.rows import BenchRow
from refine.bench.summary import sentences
from refine.bench.timing import MeasureOptions, measured, prepare
from refine.errors import ReportError
from refine.training.device import choose_device, use_threads

CONVENTION = "multiply-accumulates of convolutions, linear layers and matrix products, one image"


@dataclass(frozen=True)
class BenchOptions:
    """The options of the command line. None stands for the default; one of ``repeats`` and
    ``seconds`` is None."""

    runs: tuple[Path, ...]
    dense: Path | None
    forms: tuple[str, ...] | None
    batches: tuple[int, ...]
    repeats: int | None
    seconds: float | None
    device: str
    threads: int | None
    test_images: int
    dataset_root: str | None


@dataclass(frozen=True)
class Comparison:
    """rows: the measurements; skipped: forms that are not available, each with the reason;
    sentences: a summary of the rows."""

    rows: list[BenchRow]
    skipped: dict[str, str]
    sentences: list[str]
    environment: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """The content of ``bench.json``."""
        return {
            "environment": self.environment,
            "macs": CONVENTION,
            "skipped": self.skipped,
            "sentences": self.sentences,
        }


def compare(options: BenchOptions, place: Path, show_progress: Callable[[str], None]) -> Comparison:
    """Measures the networks; temporary files are written to ``place``. NetworkError, ReportError or
    SettingError says what cannot be compared."""
    device = choose_device(options.device)
    if device.type not in ("cpu", "cuda"):
        device = torch.device("cpu")
    use_threads(options.threads)
    usual = USUAL_ON_GPU if device.type == "cuda" else USUAL_ON_CPU
    known = forms(device, place)
    chosen = options.forms or usual
    skipped = {name: f"is not measured on {device.type}" for name in chosen if name not in known}
    measure_options = MeasureOptions(device, options.batches, options.repeats, options.seconds)
    rows: list[BenchRow] = []
    runs = of_runs(
        options.runs, options.dense, options.dataset_root, options.test_images, show_progress
    )
    for candidates in runs:
        wanted = [known[name] for name in chosen if name in known]
        prepared, left_out = prepare(candidates, wanted, measure_options, show_progress)
        skipped |= left_out
        if prepared:
            rows += measured(prepared, measure_options, show_progress)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ReportError(f"--form: no form is available here ({reasons:.300}); try eager")
    return Comparison(rows, skipped, sentences(rows), environment(device))
