"""How is a network copied, when somebody keeps a refinement in one of its attributes?"""

import weakref
from copy import deepcopy
from typing import Any

from torch import nn

# Everything that must not be copied with a network: another network's masks and optimizers.
_left_out: "weakref.WeakSet[Any]" = weakref.WeakSet()


def leave_out(thing: Any) -> None:
    """From now on ``copy_of`` copies networks without this object: None is in its place."""
    _left_out.add(thing)


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` without the refinements that its attributes hold."""
    copied: nn.Module = deepcopy(model, {id(thing): None for thing in _left_out})
    return copied
