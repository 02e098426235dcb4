"""What pulls channels towards zero while a network trains, so that they can go (sparse training)?

``penalties`` has the penalties as functions, ``weights`` what they pull at, ``regularizer`` the
part that stands between backward and step.
"""

from refine.regularization.penalties import bn_scale, group_norm, growing_reg, l1, none
from refine.regularization.regularizer import Regularizer  # noqa: F401

__all__ = ["bn_scale", "group_norm", "growing_reg", "l1", "none"]  # what a setting can name
