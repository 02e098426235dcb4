"""Scheduled runtime refinement: train a network while it is pruned, replayed and refined.

``from refine import RuntimeRefinement`` is the library; ``refine-run --help`` the command line.
"""

import importlib
import sys
from typing import Any

from refine.renamed import OldNames

__version__ = "0.1.0"
_HOMES = {
    "RuntimeRefinement": "refine.refinement",
    "CycleReport": "refine.cycle_report",
    "Masked": "refine.pruning.cut",
    "Regrowth": "refine.regrowth",
    "Replay": "refine.replay",
    "Distillation": "refine.distillation",
    "Recovery": "refine.recovery",
    "Cache": "refine.cache",
    "Structured": "refine.channels.plan",
    "Regularizer": "refine.regularization",
    "PrioritizedReplayBuffer": "refine.replay.buffer",
    "SimpleCNN": "refine.models.simple_cnn",
    "save": "refine.refinement.saving",
    "load": "refine.refinement.saving",
    "load_model": "refine.stored.network_file",
}
__all__ = sorted(_HOMES)


sys.meta_path.append(OldNames())


def __getattr__(name: str) -> Any:
    # Imported when first asked for: --help and --cfg must answer without torch (1.3 s).
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'refine' has no attribute {name!r}")
