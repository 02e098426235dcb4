"""Which cut weights live again, how many of each tensor, and with which values?"""

from refine.regrowth.regrowth import Regrown, Regrowth

__all__ = ["Regrown", "Regrowth"]
