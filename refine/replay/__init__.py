"""What does a cycle train on after its cut?

Which examples are worth most (``priority``), which are kept (``storage``) and which of these make
a batch (``sampling``) are plain functions; ``Replay`` holds the choice of them. ``Generative``
keeps a network that makes examples in place of examples, ``Training`` nothing: the control.
"""

from refine.replay.batch import Replayed
from refine.replay.generative import Generative
from refine.replay.replay import Replay
from refine.replay.training import Training

__all__ = ["Generative", "Replay", "Replayed", "Training"]
