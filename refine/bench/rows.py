"""What is recorded of each network in each form at each batch size?

The type is the table's schema: one field a column of ``bench.csv``.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

CSV_FILE, JSON_FILE, FIGURE_FILE = "bench.csv", "bench.json", "bench.png"
DENSE, REFINED, EXPORTED = "dense", "refined", "exported"


@dataclass(frozen=True)
class BenchRow:
    """Times are milliseconds of one call with ``batch`` images, over ``calls`` calls.

    speedup: median of the dense network in the same form by that of this one; promised_speedup:
    the same of their MACs. peak_bytes: of a pass in eager mode, beside the network itself
    (refine/evaluation/memory.py). accuracy: a fraction of ``test_images``; empty for a dense
    network that was never trained. difference: the greatest one of its answers to real test images
    from those of the same network in eager mode and single precision.
    """

    run: str
    contestant: str
    form: str
    precision: str
    device: str
    threads: int
    batch: int
    median_ms: float
    fastest_ms: float
    p95_ms: float
    images_per_second: float
    calls: int
    speedup: float | None
    promised_speedup: float
    macs: int
    parameters: int
    nonzero_parameters: int
    file_bytes: int
    memory_bytes: int
    peak_bytes: int
    accuracy: float | None
    test_images: int | None
    difference: float


def as_csv(rows: Iterable[BenchRow]) -> str:
    """The table with its header; numbers in full."""
    text = io.StringIO()
    names = [entry.name for entry in fields(BenchRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
