"""Which results of a run are shown to people?"""

from typing import Any

from refine.commands.listed import Listed
from refine.commands.screen import percent, size


def results(run: Listed) -> dict[str, str]:
    """The figures of a run by name, as text; those that it has not recorded are left out."""
    told = run.summary
    found = {
        "status": run.status,
        "epochs": f"{run.epochs} of {run.planned or '?'}",
        "cycles": _count(told.get("cycles")),
        "validation accuracy": None if run.validation is None else percent(run.validation),
        "test accuracy": None if run.test is None else percent(run.test),
        "sparsity of all": None if run.sparsity is None else percent(run.sparsity, 1),
        "parameters": _of(told.get("active_parameters"), told.get("total_parameters")),
        "MACs an image": _of(told.get("macs"), told.get("dense_macs")),
        "time": _seconds(told.get("seconds")),
        "size on disk": size(run.size),
    }
    return {name: text for name, text in found.items() if text is not None}


def _count(number: Any) -> str | None:
    return f"{number:,}" if isinstance(number, int) and not isinstance(number, bool) else None


def _of(left: Any, before: Any) -> str | None:
    given, whole = _count(left), _count(before)
    return f"{given} of {whole}" if given and whole else given


def _seconds(number: Any) -> str | None:
    if not isinstance(number, int | float) or not 0 <= number < 1e12:
        return None
    if number < 120:
        return f"{number:.1f} s"
    return f"{number / 60:.1f} min" if number < 7200 else f"{number / 3600:.1f} h"
