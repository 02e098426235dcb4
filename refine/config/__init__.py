"""What can be set, what do the values mean, and which of them are right?

Neither torch nor Hydra is imported here.
"""

from pathlib import Path

import refine
from refine.config.fingerprint import fingerprint
from refine.config.schema import GROUPS, DatasetConfig, RunConfig, TrackerConfig, allowed, settings
from refine.config.validate import validate

__all__ = [
    "GROUPS",
    "DatasetConfig",
    "RunConfig",
    "TrackerConfig",
    "allowed",
    "config_directory",
    "fingerprint",
    "settings",
    "validate",
]


def config_directory() -> Path:
    """``conf/``: inside the package in a wheel, beside it in a checkout."""
    home = Path(refine.__file__).parent
    inside = home / "conf"
    return inside if inside.is_dir() else home.parent / "conf"
