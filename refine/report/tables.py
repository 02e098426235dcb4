"""How is a report written as a table, for people and for programs?

Tables for people show per cent with two decimals; CSV and JSON hold fractions, in full.
"""

import csv
import io
import json
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal

from refine.plain import of_markdown, of_spreadsheet
from refine.report.groups import Group, Grouping, Spread, paired, spread

FORMATS = ("table", "csv", "markdown", "latex", "json")
FEWEST = 3  # runs that have an interval: with two it says hardly anything
DASH = "\N{EN DASH}"  # too few runs for this figure


@dataclass(frozen=True)
class Table:
    """``header`` and ``cells`` for people, the group first; ``records`` for programs."""

    caption: str
    header: list[str]
    cells: list[list[str]]
    records: list[dict[str, Any]]


def of_groups(grouping: Grouping) -> Table:
    """Test accuracy and sparsity of every group at every level of cycles and at the end."""
    cells, records = [], []
    for group in grouping.groups:
        end = [run.end for run in group.runs]
        for cycles, rows in [*group.levels().items(), ("end", end)]:
            accuracy = spread([row.test_accuracy for row in rows])
            sparsity = spread([row.sparsity for row in rows])
            figures = [*_mean_and_deviation(accuracy), *_mean_and_deviation(sparsity)]
            cells.append([group.name, str(cycles), str(len(rows)), *figures])
            records.append(
                {"group": group.name, **group.settings, "cycles": cycles, "n": len(rows)}
                | figures_of("test_accuracy", accuracy)
                | figures_of("sparsity", sparsity)
            )
    caption = (
        "Test accuracy and sparsity of all parameters in per cent: mean ± half the width of the "
        "95 % t interval, from three runs on, and standard deviation (n - 1), of n runs. A row of "
        "k cycles is the "
        "last epoch before the next cycle."
    )
    header = ["group", "cycles", "n", "test accuracy", "sd", "sparsity", "sd"]
    return Table(caption + along(grouping), header, cells, records)


def of_differences(grouping: Grouping, reference: Group) -> Table:
    """The final test accuracy of every other group minus that of ``reference``, by seed."""
    cells, records = [], []
    for group in grouping.groups:
        if group is reference:
            continue
        difference = paired(group, reference)
        interval, ends = DASH, difference.interval if difference.n >= FEWEST else None
        if ends:
            low, high = (_percent(end, "+") for end in ends)
            interval = f"[{low}, {high}]"
        mean, deviation = _percent(difference.mean, "+"), _percent(difference.deviation)
        cells.append([group.name, str(difference.n), mean, interval, deviation])
        records.append(
            {"group": group.name, **group.settings, "reference": reference.name}
            | {"pairs": difference.n}
            | _figures("difference", difference, ends)
        )
    caption = (
        f"Final test accuracy less that of {reference.name}, paired by seed, in percentage "
        "points: mean, 95 % t interval and standard deviation (n - 1) of the pairs' differences."
    )
    header = ["group", "pairs", "difference", "95 % t interval", "sd"]
    return Table(caption + along(grouping), header, cells, records)


def along(grouping: Grouping) -> str:
    """A sentence on the differing settings that the groups' names leave out; empty without any."""
    return "".join(
        f" With {shown} differs {', '.join(others)}."
        for shown, others in grouping.shown.items()
        if others
    )


def written(table: Table, form: str) -> str:
    """The table in one of FORMATS, as text that ends in a newline."""
    if form == "table":
        return _terminal(table)
    if form == "csv":
        return _csv(table)
    if form == "markdown":
        return _markdown(table)
    if form == "latex":
        return _latex(table)
    rows = {"caption": table.caption, "rows": table.records}
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _percent(fraction: float | None, sign: Literal["", "+"] = "") -> str:
    return DASH if fraction is None else f"{100 * fraction:{sign}.2f}"


def mean_and_interval(figures: Spread) -> str:
    """The mean of shares in per cent, with its interval: half the width, or both ends where one is
    cut off."""
    mean, ends = _percent(figures.mean), _of_share(figures)
    if ends is None:
        return mean
    if ends == figures.interval:
        return f"{mean} ± {_percent(figures.half_width)}"
    return f"{mean} [{_percent(ends[0])}, {_percent(ends[1])}]"


def _of_share(figures: Spread) -> tuple[float, float] | None:
    """The interval of a share, which lies between 0 and 1; None of fewer runs than say anything."""
    if figures.interval is None or figures.n < FEWEST:
        return None
    low, high = figures.interval
    return max(0.0, low), min(1.0, high)


def _mean_and_deviation(figures: Spread) -> list[str]:
    return [mean_and_interval(figures), _percent(figures.deviation)]


def figures_of(name: str, figures: Spread) -> dict[str, float | None]:
    """A record's entries for a share."""
    return _figures(name, figures, _of_share(figures))


def _figures(
    name: str, figures: Spread, interval: tuple[float, float] | None
) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {
        f"{name}_mean": figures.mean,
        f"{name}_sd": figures.deviation,
        f"{name}_t95_low": low,
        f"{name}_t95_high": high,
    }


def _merged(table: Table) -> list[list[str]]:
    """The cells, with a group's name only in its first row."""
    names = [row[0] for row in table.cells]
    return [
        ["" if name == before else name, *row[1:]]
        for before, name, row in zip([None, *names], names, table.cells, strict=False)
    ]


def _terminal(table: Table) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(box=box.SIMPLE_HEAD, caption=table.caption, caption_justify="left")
    shown.add_column(table.header[0], overflow="fold", max_width=44)
    for name in table.header[1:]:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in _merged(table):
        if row[0] and shown.rows:
            shown.add_section()
        shown.add_row(*row)
    # In a file or pipe nothing has to be wrapped to the width of a terminal.
    width = None if sys.stdout.isatty() else 200
    with io.StringIO() as file:
        Console(file=file, width=width, highlight=False, markup=False).print(shown)
        return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _csv(table: Table) -> str:
    columns = dict.fromkeys(name for record in table.records for name in record)
    with io.StringIO() as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for record in table.records:
            writer.writerow({name: of_spreadsheet(value) for name, value in record.items()})
        return file.getvalue()


def _markdown(table: Table) -> str:
    rules = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [table.header, rules, *table.cells]
    lines = ["| " + " | ".join(map(of_markdown, row)) + " |" for row in rows]
    return "\n".join([table.caption, "", *lines]) + "\n"


def _latex(table: Table) -> str:
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_escaped(table.caption)}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        "    \\toprule",
        f"    {_latex_row(table.header)}",
    ]
    for row in _merged(table):
        lines += ["    \\midrule"] * bool(row[0])
        lines.append(f"    {_latex_row(row)}")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])


def _latex_row(row: list[str]) -> str:
    return " & ".join(_escaped(cell) for cell in row) + " \\\\"


def _escaped(text: str) -> str:
    special: dict[str, str | int | None] = {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
    }
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"±": "$\\pm$", DASH: "--"}
    text = text.translate(str.maketrans(special))
    return re.sub(r"(?<![\w-])-(?= ?\d)", "$-$", text)  # a minus sign instead of a hyphen
