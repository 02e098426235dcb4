"""Where in a model are its masked tensors now?"""

import weakref
from typing import NamedTuple

from torch import nn

from refine.sparsity.layers import home


class Place(NamedTuple):
    """The module that has a tensor, the tensor's name there, and the layer whose weight it is."""

    owner: weakref.ref[nn.Module]
    attribute: str
    layer: weakref.ref[nn.Module]


class Places:
    """The places of tensors by their names in the model. A module is held weakly, so that a layer
    that was replaced is not kept."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def find_(self, model: nn.Module, name: str) -> None:
        """Looks up where ``name`` is in ``model``."""
        path, _, attribute = name.rpartition(".")
        layer = weakref.ref(model.get_submodule(home(model, name)))
        self._places[name] = Place(weakref.ref(model.get_submodule(path)), attribute, layer)

    def owner(self, name: str) -> nn.Module | None:
        """The module that has the tensor; None if it no longer exists."""
        return self._places[name].owner()

    def layer(self, name: str) -> nn.Module:
        """The layer whose weight the tensor is. RuntimeError if it no longer exists."""
        layer = self._places[name].layer()
        if layer is None:
            raise RuntimeError(f"the layer of {name} no longer exists")
        return layer

    def parameter(self, name: str) -> nn.Parameter | None:
        """The tensor; None if it no longer exists."""
        found: nn.Parameter | None = getattr(self.owner(name), self._places[name].attribute, None)
        return found
