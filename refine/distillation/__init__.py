"""Whom does a refined network learn from beside its labels?

Teacher, what of it is matched, and when, are separate answers.
"""

from refine.distillation.distillation import Distillation
from refine.distillation.teacher import Dense, Ema, Self

__all__ = ["Dense", "Distillation", "Ema", "Self"]
