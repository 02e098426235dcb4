"""What picture does a run leave, and from which of its files?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine.plain import plain
from refine.records.rows import CONFIG_FILE, CYCLES_FILE, EPOCHS_FILE, FIGURE_FILE, SUMMARY_FILE
from refine.report.texts import Unusable, json_of, yaml_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATES = 10  # characters of the directory that a run without a name of its own is in


def draw_run(directory: Path, formats: str = "png", dense_macs: int | None = None) -> Path:
    """Draws the run in ``directory``; the path of the PNG. ``formats`` is as the setting
    ``figure_formats``, ``dense_macs`` as in ``summary.json``, which a running run has not yet."""
    from refine.report.style import save_all

    path = directory / FIGURE_FILE
    save_all(drawn(directory, dense_macs), path, formats)
    return path


def drawn(directory: Path, dense_macs: int | None = None) -> "Figure":
    """The figure of the run in ``directory``, from its ``metrics.csv`` and, where they are there,
    its ``cycles.csv`` and its configuration."""
    import pandas as pd  # only here, as matplotlib: they take long to import

    from refine.report.panels import run_figure

    epochs = pd.read_csv(directory / EPOCHS_FILE)
    cycles = None
    if (directory / CYCLES_FILE).exists():
        cycles = pd.read_csv(directory / CYCLES_FILE)
    if dense_macs is None:
        dense_macs = _read(directory / SUMMARY_FILE, json_of).get("dense_macs")
    return run_figure(epochs, cycles, title_of(directory), dense_macs)


def title_of(directory: Path) -> str:
    """The run's directory, network, data and pruner, as far as they are known."""
    place = directory.absolute()
    dated = place.name.replace("-", "").isdigit() and len(place.parent.name) == DATES
    name = f"{place.parent.name}/{place.name}" if dated else place.name
    config = _read(directory / CONFIG_FILE, yaml_of)
    model, data = (_target(config.get(node)) for node in ("model", "dataset"))
    what = f"{model} on {data}" if model and data else model
    said = ", ".join(part for part in (what, _cut(config.get("pruner"))) if part)
    return plain(f"{name}: {said}" if said else name)


def _cut(pruner: Any) -> str:
    """What is cut, and by which score."""
    if not isinstance(pruner, dict):
        return ""
    for what, key in (("channels", "criterion"), ("weights", "importance")):
        if (score := pruner.get(key)) not in (None, "none"):
            return f"{what} cut by {str(score).rpartition('.')[2]}"
    return "nothing cut"


def _target(node: Any) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def _read(path: Path, read: Any) -> dict[str, Any]:
    """What a file says; nothing if there is none, or it is broken: a picture can do without."""
    if not path.exists():
        return {}
    try:
        found = read(path)
    except Unusable:
        return {}
    return found if isinstance(found, dict) else {}
