"""What can be set, what do the values mean, and which of them are right?

Neither torch nor Hydra is imported here.
"""

from refine.config.fingerprint import fingerprint
from refine.config.home import config_directory
from refine.config.schedules import settle
from refine.config.schema import (
    GROUPS,
    DatasetConfig,
    RunConfig,
    TrackerConfig,
    settings,
    typed,
)
from refine.config.validate import validate

__all__ = [
    "GROUPS",
    "DatasetConfig",
    "RunConfig",
    "TrackerConfig",
    "config_directory",
    "fingerprint",
    "settings",
    "settle",
    "typed",
    "validate",
]
