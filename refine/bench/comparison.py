"""What does one call of ``refine-bench`` compare, and what does it find?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refine.bench.candidates import of_runs
from refine.bench.environment import environment
from refine.bench.forms import forms
from refine.bench.measure import Measuring, measured, prepare
from refine.bench.names import USUAL_ON_CPU, USUAL_ON_GPU
from refine.bench.rows import BenchRow
from refine.bench.summary import sentences
from refine.errors import ReportError
from refine.training.device import choose_device, use_threads

CONVENTION = "multiply-accumulates of convolutions, linear layers and matrix products, one image"


@dataclass(frozen=True)
class Asked:
    """The command line's options; None stands for the default of forms, threads and data set, and
    one of ``repeats`` and ``seconds`` is None."""

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
    """rows: what was measured; skipped: forms that could not be had, each with the reason."""

    rows: list[BenchRow]
    skipped: dict[str, str]
    sentences: list[str]
    environment: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """What ``bench.json`` holds."""
        return {
            "environment": self.environment,
            "macs": CONVENTION,
            "skipped": self.skipped,
            "sentences": self.sentences,
        }


def compared(asked: Asked, place: Path, tell: Callable[[str], None]) -> Comparison:
    """Prepares and measures; files of its own go to ``place``. NetworkError, ReportError or
    SettingError say what cannot be compared."""
    device = choose_device(asked.device)
    if device.type not in ("cpu", "cuda"):
        device = torch.device("cpu")
    use_threads(asked.threads)
    usual = USUAL_ON_GPU if device.type == "cuda" else USUAL_ON_CPU
    known = forms(device, place)
    chosen = asked.forms or usual
    skipped = {name: f"is not measured on {device.type}" for name in chosen if name not in known}
    measuring = Measuring(device, asked.batches, asked.repeats, asked.seconds)
    rows: list[BenchRow] = []
    runs = of_runs(asked.runs, asked.dense, asked.dataset_root, asked.test_images, tell)
    for contestants in runs:
        wanted = [known[name] for name in chosen if name in known]
        prepared, left_out = prepare(contestants, wanted, measuring, tell)
        skipped |= left_out
        if prepared:
            rows += measured(prepared, measuring, tell)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ReportError(f"--form: none of the forms can be had here ({reasons:.300}); try eager")
    return Comparison(rows, skipped, sentences(rows), environment(device))
