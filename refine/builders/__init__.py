"""What do the parts of a configuration stand for?

Each builder takes its own part, as typed values, and nothing below knows that a configuration
exists.
"""

from refine.builders.data import build_course, build_data
from refine.builders.model import build_model
from refine.builders.trainer import build_trainer

__all__ = ["build_course", "build_data", "build_model", "build_trainer"]
