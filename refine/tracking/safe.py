"""How can a tracker fail without harm to the run?"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from refine.config import TrackerConfig
from refine.config.instantiate import build, imported, parameters_of
from refine.errors import SettingError, one_of
from refine.records.rows import CycleRow, EpochRow
from refine.tracking.csv import Csv

log = logging.getLogger("refine")
EXTRAS = ("tensorboard", "mlflow", "wandb")  # packages, each an extra of that name


class Tracker(Protocol):
    """See refine/tracking/__init__.py."""

    def row(self, row: EpochRow | CycleRow, sparsities: dict[str, float]) -> None: ...
    def end(self, summary: dict[str, Any], figure_path: Path) -> None: ...


class SafeTracker:
    """Passes rows to the tracker that ``config`` names, until that raises an exception.

    The first exception is logged; after it the tracker is not called again. The tracker is created
    with the first row, so that a run that measures nothing leaves no trace in another program.
    SettingError at once if it cannot be imported or does not have one of the settings.
    """

    def __init__(self, config: DictConfig, directory: Path, start_epoch: int = 0):
        # A DictConfig becomes a dict; the stubs name all that any configuration can become.
        whole = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        known = [entry.name for entry in fields(TrackerConfig)]
        # The schema's settings are only offered: a user's own tracker need not accept all of them.
        offered = {name: whole["tracker"][name] for name in known if name != "_target_"}
        node = {name: value for name, value in whole["tracker"].items() if name not in offered}
        accepted, open_ended = parameters_of(_target(node["_target_"]))
        for name in node:
            if name != "_target_" and name not in accepted and not open_ended:
                problem = f"there is no such setting; {one_of(known, name)}"
                raise SettingError(f"tracker.{name}", problem)
        offered |= {"directory": directory, "config": whole, "start_epoch": start_epoch}
        self._make: Callable[[], Tracker] | None = partial(build, "tracker", node, offered=offered)
        self._tracker: Tracker = Csv()

    def row(self, row: EpochRow | CycleRow, masks: Mapping[str, Tensor]) -> None:
        """Passes on the row, and the share of each tensor of ``masks`` that is cut."""
        with self._harmless():
            if self._make:
                # Forgotten first: a slow constructor that Ctrl-C ends is not called a second time.
                make, self._make = self._make, None
                self._tracker = make()
            shares = {name: 1 - int(mask.sum()) / mask.numel() for name, mask in masks.items()}
            self._tracker.row(row, shares)

    def end(self, summary: dict[str, Any], figure_path: Path) -> None:
        """Passes on how the run ended."""
        with self._harmless():
            self._tracker.end(summary, figure_path)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = Csv()
            reason = str(error) or repr(error)
            log.warning("the tracker failed, the run continues without it: %s", reason)
            log.debug("where it failed", exc_info=error)


def _target(path: str) -> Callable[..., Any]:
    try:
        return imported("tracker._target_", path)
    except SettingError as error:
        missing = getattr(error.__cause__, "name", None)
        if missing not in EXTRAS:
            raise
        advice = f"pip install 'runtime-refinement[{missing}]'"
        raise SettingError("tracker", f"{missing} is not installed; {advice}") from error
