"""What is recorded for each network in each form at each batch size?

The type is the schema of the table: each field is a column of ``bench.csv``.
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

    contestant: the role of the network: dense, refined or exported. speedup: the median of the
    dense network in the same form, divided by that of this network; promised_speedup: the same of
    their MACs. peak_bytes: of a forward pass in eager mode, without the network itself
    (refine/evaluation/peak_memory.py). accuracy: a fraction of ``test_images``; empty for a dense
    network that was not trained. difference: the greatest difference of its logits for real test
    images from those of the same network in eager mode and single precision.
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
    """The table with its header; numbers are not rounded."""
    text = io.StringIO()
    names = [entry.name for entry in fields(BenchRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def compared(rows: Iterable[BenchRow]) -> list[tuple[BenchRow, float]]:
    """Each row that has a speed-up, with it."""
    return [(row, row.speedup) for row in rows if row.speedup]
