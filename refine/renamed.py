"""What were modules called before, so that older code and configurations still find them?"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Only what somebody's code, the README of an earlier version, or the configuration that a run has
# saved can name.
RENAMED = {
    "refine.datasets.tasks": "refine.datasets.course",
    "refine.export.network_file": "refine.stored.network_file",
    "refine.masks": "refine.sparsity.masks",
    "refine.muon": "refine.training.optim",
    "refine.network_file": "refine.stored.network_file",
    "refine.pruning.bounds": "refine.pruning.allocation",
    "refine.pruning.criteria": "refine.channels.criteria",
    "refine.pruning.initial_value": "refine.regrowth.initial",
    "refine.pruning.reference": "refine.regrowth.reference",
    "refine.pruning.regrowth": "refine.regrowth",
    "refine.pruning.regrowth_allocation": "refine.regrowth.allocation",
    "refine.pruning.regrowth_score": "refine.regrowth.score",
    "refine.pruning.structured": "refine.channels.plan",
    "refine.regularization.kinds": "refine.regularization.penalties",
    "refine.rows": "refine.records.rows",
    "refine.stages": "refine.training.optim",
    "refine.trained": "refine.export.trained",
}


def current(path: str) -> str:
    """The present import path of what ``path``, such as ``refine.muon.Muon``, names."""
    for old, new in RENAMED.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path


class OldNames(MetaPathFinder, Loader):
    """Lets ``import refine.muon`` give the module that has its content now, and no second one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What importlib asks of every finder."""
        return ModuleSpec(fullname, self) if fullname in RENAMED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty module for the moment."""

    def exec_module(self, module: ModuleType) -> None:
        """Puts the present module in its place."""
        sys.modules[module.__name__] = importlib.import_module(RENAMED[module.__name__])
