"""What do the learning rate and the weights do after a cut?

``curves`` has the rates as functions, ``rates`` sets them, ``rewind`` sets weights back.
"""

from refine.recovery.curves import Rates, clr, fine_tune, lr_rewind, one_cycle, slr  # noqa: F401
from refine.recovery.rates import Recovery  # noqa: F401
from refine.recovery.rewind import WeightRewind  # noqa: F401

__all__ = ["clr", "fine_tune", "lr_rewind", "one_cycle", "slr"]  # what a setting can name
