"""How are sizes, times and accuracies shown on a terminal?"""

from collections.abc import Iterator, Sequence

from rich.table import Table

from refine.bench.rows import DENSE, BenchRow


def tables(rows: Sequence[BenchRow]) -> Iterator[Table]:
    """Two tables for each run."""
    for run in dict.fromkeys(row.run for row in rows):
        own = [row for row in rows if row.run == run]
        yield _networks(own)
        yield _forms(own)


def _networks(rows: Sequence[BenchRow]) -> Table:
    batch = max(row.batch for row in rows)
    table = Table(title=rows[0].run, title_justify="left")
    table.add_column("network")
    for name in ("parameters", "not 0", "MACs", "file", "memory", f"peak, batch {batch}"):
        table.add_column(name, justify="right")
    for role in dict.fromkeys(row.contestant for row in rows):
        row = next(row for row in rows if (row.contestant, row.batch) == (role, batch))
        table.add_row(
            role,
            f"{row.parameters:,}",
            f"{row.nonzero_parameters:,}",
            f"{row.macs / 1e6:,.2f} M",
            _size(row.file_bytes),
            _size(row.memory_bytes),
            _size(row.peak_bytes),
        )
    return table


def _forms(rows: Sequence[BenchRow]) -> Table:
    batches = list(dict.fromkeys(row.batch for row in rows))
    table = Table(
        caption="median ms of a batch, and the speed-up against dense in the same form",
        caption_justify="left",
    )
    table.add_column("form")
    table.add_column("network")
    table.add_column("accuracy", justify="right")
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
    forms = list(dict.fromkeys(row.form for row in rows))
    for form in forms:
        same = [row for row in rows if row.form == form]
        roles = list(dict.fromkeys(row.contestant for row in same))
        for role in roles:
            at = {row.batch: row for row in same if row.contestant == role}
            accuracy = at[batches[0]].accuracy
            table.add_row(
                form if role == roles[0] else "",
                role,
                "" if accuracy is None else f"{accuracy:.2%}",
                *(_cell(at[batch]) for batch in batches),
                end_section=role == roles[-1],
            )
    return table


def _cell(row: BenchRow) -> str:
    times = f"{row.median_ms:.2f}" if row.median_ms < 100 else f"{row.median_ms:.0f}"
    if row.contestant == DENSE or row.speedup is None:
        return times
    return f"{times} {row.speedup:.2f}x"


def _size(size: int) -> str:
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.2f} kB"
