"""Whom does a refined network learn from beside its labels?

The teacher, what is matched and when are separate settings.
"""

from refine.distillation.distillation import Distillation
from refine.distillation.teacher import Dense, Ema, Self

__all__ = ["Dense", "Distillation", "Ema", "Self"]
