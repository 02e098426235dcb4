"""Which objects are built from a configuration?

Each builder takes its own part of the configuration, as typed values. Lower levels do not know
that a configuration exists.
"""

from refine.builders.data import build_course, build_data
from refine.builders.model import build_model
from refine.builders.trainer import build_trainer

__all__ = ["build_course", "build_data", "build_model", "build_trainer"]
