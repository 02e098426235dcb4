"""What does a cycle train on after its cut?

Which examples are worth most (``priority``), which are kept (``storage``) and which of these make
a batch (``sampling``) are plain functions; a ``Replay`` is made of one of each. ``Generative``
keeps no examples but a network that makes some. ``Training`` keeps nothing: it is the control. Each
of the three is a ``ReplaySource``, and ``as_replay`` makes one of a plain function.
"""

from refine.replay.batch import ReplayBatches, Replayed, ReplaySource, as_replay
from refine.replay.generative import Generative
from refine.replay.replay import Replay
from refine.replay.training import Training

__all__ = [
    "Generative",
    "Replay",
    "ReplayBatches",
    "ReplaySource",
    "Replayed",
    "Training",
    "as_replay",
]
