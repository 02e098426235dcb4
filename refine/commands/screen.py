"""How does a command show rows and figures, on a terminal of 80 columns and in a pipe?"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from refine.plain import plain

UNITS = ("B", "kB", "MB", "GB", "TB")
NOTHING = "-"  # where there is no figure


def show(text: str) -> None:
    """Prints ``text``."""
    print(text, end="" if text.endswith("\n") else "\n")


def note(text: str) -> None:
    """Prints a line on stderr."""
    print(plain(text), file=sys.stderr)


def name_left_out(reasons: dict[Path, str]) -> None:
    """Says on stderr which directories are left out, and why."""
    for directory, reason in reasons.items():
        note(f"left out: {directory}: {reason}")


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1, indent: int = 0
) -> str:
    """The rows below a header, the first ``left`` columns to the left and folded where a terminal
    is narrow; whatever the cells hold is shown as it is."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(header))
    for number, name in enumerate(header):
        if number < left:
            shown.add_column(name, overflow="fold")
        else:
            shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(plain, row))
    padded = Padding(shown, (0, 0, 0, indent))
    # In a file or pipe nothing has to be wrapped to the width of a terminal.
    width = None if sys.stdout.isatty() else 10_000
    with io.StringIO() as file:
        Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(padded)
        return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def size(count: int) -> str:
    """A number of bytes, as 7.6 MB."""
    number, unit = float(count), 0
    while number >= 999.5 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.0f} {UNITS[unit]}" if not unit else f"{number:.1f} {UNITS[unit]}"


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction in per cent."""
    return NOTHING if fraction is None else f"{fraction:.{decimals}%}"


def value(setting: object) -> str:
    """A setting's value, as it would be typed."""
    if isinstance(setting, bool):
        return str(setting).lower()
    if isinstance(setting, list):
        return f"[{','.join(map(value, setting))}]"
    return "null" if setting is None else plain(setting)


def counted(number: int, what: str) -> str:
    """A number of things: 1 run, 2 runs."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
