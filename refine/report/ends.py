"""How did each group of runs end, which is the best, and is it sure?"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refine.errors import ReportError
from refine.records.rows import MODEL_FILE
from refine.report.groups import Group, Grouping, spread
from refine.report.runs import Run
from refine.report.tables import DASH, Table, along, figures_of, mean_and_interval

Value = Callable[[Run], float | None]


def _told(name: str) -> Value:
    """What the summary of a run says."""

    def value(run: Run) -> float | None:
        found = run.summary.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        return float(found) if -1e18 < found < 1e18 else None  # no NaN either

    return value


def _file_size(run: Run) -> float | None:
    path: Path = run.directory / MODEL_FILE
    return path.stat().st_size if path.is_file() else None


# Name for programs: header for people, value of a run, how its mean is shown.
COLUMNS: dict[str, tuple[str, Value, Callable[[float], str]]] = {
    "active_parameters": ("parameters", _told("active_parameters"), lambda v: f"{v:,.0f}"),
    "macs": ("MACs", _told("macs"), lambda v: f"{v / 1e6:,.2f} M"),
    "file_bytes": ("file", _file_size, lambda v: f"{v / 1e6:,.2f} MB"),
    "seconds": ("time", _told("seconds"), lambda v: f"{v:,.1f} s"),
}
validation = _told("validation_accuracy")
KEYS = ("validation", "test", "sparsity", *COLUMNS, "name")  # to sort by
RISING = ("active_parameters", "macs", "file_bytes", "seconds", "name")  # less is better


def of_ends(grouping: Grouping, key: str | None = None, best_only: bool = False) -> Table:
    """Every group's end: accuracies, sparsity, size and time, sorted by ``key``, one of KEYS; by
    default in the order of the settings. ``best_only``: just the best by ``key``, by default by
    validation accuracy, or test accuracy where there is none. ReportError if nothing was recorded
    of the key."""
    groups = list(grouping.groups)
    held_out = all(validation(run) is not None for group in groups for run in group.runs)
    decides = key if best_only and key else "validation" if held_out else "test"
    best = _sorted(groups, decides)[0]
    if key:
        groups = _sorted(groups, key)
    if best_only:
        groups = [best]
    shown = {name: column for name, column in COLUMNS.items() if any(
        column[1](run) is not None for group in groups for run in group.runs)}  # fmt: skip
    cells, records = [], []
    for group in groups:
        test = spread([run.end.test_accuracy for run in group.runs])
        sparsity = spread([run.end.sparsity for run in group.runs])
        record: dict[str, Any] = {"group": group.name, **group.settings, "n": len(group.runs)}
        cell = [group.name, str(len(group.runs))]
        if held_out:
            held = spread([v for run in group.runs if (v := validation(run)) is not None])
            cell.append(mean_and_interval(held))
            record |= figures_of("validation_accuracy", held)
        cell += [mean_and_interval(test), f"{100 * (sparsity.mean or 0):.2f}"]
        record |= figures_of("test_accuracy", test) | figures_of("sparsity", sparsity)
        for name, (_, value, text) in shown.items():
            mean = _mean(group, value)
            cell.append(DASH if mean is None else text(mean))
            record[f"{name}_mean"] = mean
        records.append(record | {"best": group is best})
        cells.append(cell)
    header = ["group", "n", *(["validation"] if held_out else []), "test", "sparsity",
              *(column[0] for column in shown.values())]  # fmt: skip
    caption = (
        "At the end of n runs, in per cent: mean test accuracy (and validation accuracy, where "
        "images were held out) with half the width of the 95 % t interval, or its ends where it is "
        "cut off at 0 or 100, from three runs on; and sparsity of all parameters."
    )
    if len(grouping.groups) > 1:
        why = "" if decides != "test" or held_out else "; no validation images were held out"
        caption += f" Best by {decides}{why}: {best.name}."
    return Table(caption + along(grouping), header, cells, records)


def _mean(group: Group, value: Value) -> float | None:
    found = [number for run in group.runs if (number := value(run)) is not None]
    return statistics.fmean(found) if len(found) == len(group.runs) else None


def _sorted(groups: list[Group], key: str) -> list[Group]:
    if key == "name":
        return sorted(groups, key=lambda group: group.name)
    values: dict[str, Value] = {
        "validation": validation,
        "test": lambda run: run.end.test_accuracy,
        "sparsity": lambda run: run.end.sparsity,
    } | {name: column[1] for name, column in COLUMNS.items()}
    means = {id(group): _mean(group, values[key]) for group in groups}
    if all(mean is None for mean in means.values()):
        raise ReportError(f"--sort {key}: no run has recorded it")
    sign = 1 if key in RISING else -1
    return sorted(groups, key=lambda group: _rank(means[id(group)], sign))


def _rank(mean: float | None, sign: int) -> tuple[bool, float]:
    return mean is None, sign * (mean or 0.0)
