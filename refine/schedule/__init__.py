"""When is a cycle due, and how much does it cut?

``due(at, surviving)`` gives the share of the ``surviving`` prunable weights to cut after epoch (or
step, with ``by``) ``at``, counted from 1, or None. A negative share is one to grow back: survivors
times 1 - share is what lives afterwards. After 0, before the first step, only what ``start`` or
``at`` asks for is due, and after the last epoch only what ``stop`` or ``at`` does.

A schedule of your own is any class with ``by``, ``grows`` and ``due``. Of the fields of ``Given``
the run supplies those that its signature names; all its other parameters are settings.
"""

from refine.schedule.base import Given, Schedule
from refine.schedule.ratios import Adaptive, Cosine, Never, OneShot, Periodic
from refine.schedule.sparsities import Cubic, Cyclic, Geometric, Listed
from refine.schedule.target import ToTarget

__all__ = [
    "Adaptive",
    "Cosine",
    "Cubic",
    "Cyclic",
    "Geometric",
    "Given",
    "Listed",
    "Never",
    "OneShot",
    "Periodic",
    "Schedule",
    "ToTarget",
]
