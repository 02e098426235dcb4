"""What did the refinement gain, in words?

Pure functions of the rows; a gain below 5 % is called none, as the times vary by as much.
"""

from collections.abc import Iterable, Sequence

from refine.bench.rows import DENSE, BenchRow

GAIN = 1.05
SHORT_OF = 0.8  # of the promised speed-up; below, the reason is said
USUAL_BATCH = 32
VARIES = 2.0  # times the fastest call, from which on a median says more of other programs


def sentences(rows: Sequence[BenchRow]) -> list[str]:
    """A few sentences on each run, after a warning if the machine was busy."""
    found = _busy(rows)
    for run in dict.fromkeys(row.run for row in rows):
        for role in dict.fromkeys(row.contestant for row in rows if row.contestant != DENSE):
            own = [row for row in rows if (row.run, row.contestant) == (run, role)]
            if own:
                found += _of(own, [r for r in rows if (r.run, r.contestant) == (run, DENSE)])
    return found


def reference_batch(rows: Iterable[BenchRow]) -> int:
    """The batch size that is spoken of: 32 if it was measured, else the next smaller one, else the
    smallest."""
    batches = {row.batch for row in rows}
    return max((batch for batch in batches if batch <= USUAL_BATCH), default=min(batches))


def _busy(rows: Sequence[BenchRow]) -> list[str]:
    disturbed = sum(row.median_ms > VARIES * row.fastest_ms for row in rows)
    if disturbed < len(rows) / 10:
        return []
    return [
        f"other programs were at work on this machine: {disturbed} of {len(rows)} medians are more "
        f"than {VARIES:g} times the fastest call. Measure again when it is idle; fastest_ms in the "
        "table is disturbed least"
    ]


def _of(own: Sequence[BenchRow], dense: Sequence[BenchRow]) -> list[str]:
    name = f"{own[0].run}, {own[0].contestant}"
    return [
        f"{name}: {sentence}"
        for sentence in (_speed(own), _size(own[0], dense), *_precisions(own))
        if sentence
    ]


def _speed(own: Sequence[BenchRow]) -> str:
    first, device = own[0], "GPU" if own[0].device.startswith("cuda") else "CPU"
    compared = [row for row in own if row.speedup]
    if not compared:
        return "no form could be compared with the dense network"
    batch = reference_batch(compared)
    speeds = [row.speedup for row in compared if row.batch == batch]
    span = f"{min(speeds):.2f}x to {max(speeds):.2f}x"
    zeros = 1 - first.nonzero_parameters / first.parameters
    promised = first.promised_speedup
    if promised < GAIN:
        cut = f"{zeros:.0%} of its parameters are 0, and it has as many multiply-accumulates"
        if max(speeds) < GAIN:
            return f"{cut}: no speed-up on this {device} in any form ({span}, batches of {batch})"
        faster = ", ".join(r.form for r in compared if r.batch == batch and r.speedup >= GAIN)
        return f"{cut}: {span} with batches of {batch}, faster only in {faster}"
    at_batch = sorted((r for r in compared if r.batch == batch), key=lambda r: -r.speedup)
    best, others = at_batch[0], at_batch[1:]
    fewer = f"{promised:.1f}x fewer multiply-accumulates"
    if max(speeds) < GAIN:
        return f"{fewer}, but no speed-up in any form ({span}, batches of {batch}, {device})"
    gave = f"{fewer} gave {best.speedup:.2f}x in the form {best.form}"
    if others:
        gave += f" and {others[-1].speedup:.2f}x in {others[-1].form}"
    gave += f" with batches of {batch} on this {device}"
    if best.speedup < SHORT_OF * promised:
        gave += (
            ": less than promised, as norms, activations and each layer's own overhead shrink less "
            "than the multiplications do, and widths that are no multiples of 8 or 16 are computed "
            "as the next such ones are (pruner.round_to)"
        )
    without = [row for row in at_batch if row.speedup < GAIN]
    if without and without != at_batch:
        listed = ", ".join(f"{row.form} ({row.speedup:.2f}x)" for row in without)
        gave += f"; no gain in {listed}"
    return gave


def _size(row: BenchRow, dense: Sequence[BenchRow]) -> str:
    if not dense:
        return ""
    share = row.file_bytes / dense[0].file_bytes
    memory = row.memory_bytes / dense[0].memory_bytes
    zeros = 1 - row.nonzero_parameters / row.parameters
    if share > 1 / GAIN and zeros > 0.1:
        return f"its file is {share:.0%} of the dense one: the zeros are in it; see refine-export"
    return f"its file is {share:.1%} of the dense one, its memory {memory:.1%}"


def _precisions(own: Sequence[BenchRow]) -> list[str]:
    """Accuracy in less than single precision, beside it."""
    whole = next((row for row in own if row.precision == "fp32"), None)
    if whole is None or whole.accuracy is None:
        return []
    forms = {row.form: row for row in own if row.precision != "fp32"}
    return [
        f"{form} gets {row.accuracy:.2%} of {row.test_images:,} test images right, fp32 "
        f"{whole.accuracy:.2%} ({100 * (row.accuracy - whole.accuracy):+.2f} points)"
        for form, row in forms.items()
    ]
