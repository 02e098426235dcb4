"""What did the refinement gain, in sentences?

Pure functions of the rows. A gain below 5 % counts as none, as times vary by as much.
"""

from collections.abc import Iterable, Sequence

from refine.bench.rows import DENSE, BenchRow, compared

GAIN = 1.05
SHORT_OF = 0.8  # of the promised speed-up; below, a sentence gives the reason
USUAL_BATCH = 32
VARIES = 2.0  # times the fastest call; a median above shows that other programs were running

Speeds = Sequence[tuple[BenchRow, float]]  # rows of one network and batch size, their speed-ups


def sentences(rows: Sequence[BenchRow]) -> list[str]:
    """A few sentences on each run, after a warning if the machine was busy."""
    found = _busy(rows)
    for run in dict.fromkeys(row.run for row in rows):
        for role in dict.fromkeys(row.contestant for row in rows if row.contestant != DENSE):
            own = [row for row in rows if (row.run, row.contestant) == (run, role)]
            if own:
                dense = [row for row in rows if (row.run, row.contestant) == (run, DENSE)]
                found += _on_network(own, dense)
    return found


def reference_batch(rows: Iterable[BenchRow]) -> int:
    """The batch size that the sentences are about: 32 if it was measured, else the next smaller
    one, else the smallest."""
    batches = {row.batch for row in rows}
    return max((batch for batch in batches if batch <= USUAL_BATCH), default=min(batches))


def _busy(rows: Sequence[BenchRow]) -> list[str]:
    disturbed = sum(row.median_ms > VARIES * row.fastest_ms for row in rows)
    if disturbed < len(rows) / 10:
        return []
    return [
        f"other programs were running on this machine: {disturbed} of {len(rows)} medians are more "
        f"than {VARIES:g} times the fastest call. Measure again when it is idle; fastest_ms in the "
        "table is disturbed least"
    ]


def _on_network(own: Sequence[BenchRow], dense: Sequence[BenchRow]) -> list[str]:
    name = f"{own[0].run}, {own[0].contestant}"
    return [
        f"{name}: {sentence}"
        for sentence in (_speed(own), _size(own[0], dense), *_precisions(own))
        if sentence
    ]


def _speed(own: Sequence[BenchRow]) -> str:
    with_speedup = compared(own)
    if not with_speedup:
        return "no form could be compared with the dense network"
    batch = reference_batch(row for row, _ in with_speedup)
    speeds = [(row, speedup) for row, speedup in with_speedup if row.batch == batch]
    if own[0].promised_speedup < GAIN:
        return _speed_of_zeros(own[0], speeds)
    return _speed_of_fewer_macs(own[0], speeds)


def _speed_of_zeros(row: BenchRow, speeds: Speeds) -> str:
    """On a network that has zeros but as many multiply-accumulates as the dense one."""
    zeros, batch = 1 - row.nonzero_parameters / row.parameters, speeds[0][0].batch
    cut = f"{zeros:.0%} of its parameters are 0, and it has as many multiply-accumulates"
    faster = ", ".join(of.form for of, speedup in speeds if speedup >= GAIN)
    if not faster:
        return (
            f"{cut}: no speed-up on this {_device(row)} in any form ({_span(speeds)}, batches of "
            f"{batch})"
        )
    return f"{cut}: {_span(speeds)} with batches of {batch}, faster only in {faster}"


def _speed_of_fewer_macs(row: BenchRow, speeds: Speeds) -> str:
    promised, batch, device = row.promised_speedup, speeds[0][0].batch, _device(row)
    fewer = f"{promised:.1f}x fewer multiply-accumulates"
    ordered = sorted(speeds, key=lambda pair: -pair[1])
    (best, most), (last, least) = ordered[0], ordered[-1]
    if most < GAIN:
        return (
            f"{fewer}, but no speed-up in any form ({_span(speeds)}, batches of {batch}, {device})"
        )
    gave = f"{fewer} gave {most:.2f}x in the form {best.form}"
    if len(ordered) > 1:
        gave += f" and {least:.2f}x in {last.form}"
    gave += f" with batches of {batch} on this {device}"
    if most < SHORT_OF * promised:
        gave += (
            ": less than promised, as norms, activations and each layer's own overhead shrink less "
            "than the multiplications do, and widths that are not multiples of 8 or 16 take as "
            "long as the next multiple (pruner.round_to)"
        )
    without = ", ".join(f"{of.form} ({speedup:.2f}x)" for of, speedup in ordered if speedup < GAIN)
    return f"{gave}; no gain in {without}" if without else gave


def _span(speeds: Speeds) -> str:
    values = [speedup for _, speedup in speeds]
    return f"{min(values):.2f}x to {max(values):.2f}x"


def _device(row: BenchRow) -> str:
    return "GPU" if row.device.startswith("cuda") else "CPU"


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
    """Sentences that compare the accuracy of forms in lower precision with that in fp32."""
    whole = next((row.accuracy for row in own if row.precision == "fp32"), None)
    if whole is None:
        return []
    lower = {row.form: row for row in own if row.precision != "fp32"}
    return [
        f"{form} gets {row.accuracy:.2%} of {row.test_images:,} test images right, fp32 "
        f"{whole:.2%} ({100 * (row.accuracy - whole):+.2f} points)"
        for form, row in lower.items()
        if row.accuracy is not None
    ]
