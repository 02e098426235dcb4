"""Which optimizers train this network, and how do they leave cut weights at zero?"""

import logging
import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Size, Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
)
from torch.utils.weak import WeakTensorKeyDictionary

from refine.sparsity.closures import gradient_scale
from refine.sparsity.hold import Freeze
from refine.sparsity.masks import Masks
from refine.sparsity.shrink import Change, Shrunk, fit_, shapes

log = logging.getLogger("refine")
Observer = Callable[[Mapping[str, nn.Parameter], Tensor | None], None]


class OptimizerWatch:
    """Follows every step of every torch optimizer that trains a parameter of a network.

    torch calls global hooks around each ``Optimizer.step``. Before it, the gradients of cut weights
    are set to 0, so that their moments stay 0 and they do not affect what an optimizer computes
    from a whole tensor. After it, the cut weights are set to 0. No optimizer has to be passed. Only
    weights that this optimizer trains are changed: others may wait for their own backward pass.

    named: whether the prunable tensors were named.
    observers: called before each step as ``(weights, scale)``, with those prunable weights, by
    name, that the optimizer trains, their gradients still complete, and with the factor of these:
    None for 1, not finite if they overflowed and the step will be skipped. For a step with a
    closure, which computes the gradients, this is after the closure's first call. ``follow`` adds
    functions that are called with the network after each step.
    """

    def __init__(self, model: nn.Module, masks: Masks, named: bool = False):
        self.masks, self.named = masks, named
        self.observers: list[Observer] = []
        self._model = weakref.ref(model)
        self._seen: list[weakref.ref[Optimizer]] = []  # oldest step first
        self._strangers: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._freeze: Freeze | None = None
        self._frozen_epochs = 0  # epochs for which the freeze still holds
        self._followers: list[weakref.WeakMethod[Callable[[nn.Module], None]]] = []
        # The changes of a parameter, the oldest first.
        self._shrunk: MutableMapping[Tensor, list[Change]] = WeakTensorKeyDictionary()
        self.at_first, self.version = (
            shapes(model),
            0,
        )  # shapes at first; number of cuts of channels
        self.structure = 0  # how often layers were replaced, new or gone
        self.zeros_said = False

    def follow(self, method: Callable[[nn.Module], None]) -> None:
        """From now on ``method`` is called with the network after every step of any of its
        optimizers, for as long as the object whose method it is exists."""
        self._followers.append(weakref.WeakMethod(method))

    def train_only_(self, free: Mapping[str, Tensor], epochs: int = 0) -> None:
        """From now on only the weights that ``free`` marks, by parameter name, train. All others
        keep their present values until ``train_all_``, or for ``epochs`` epochs. If nothing is
        marked, all train."""
        model = self._model()
        self._freeze = Freeze(model, free) if free and model is not None else None
        self._frozen_epochs = epochs

    def train_all_(self) -> None:
        """Ends ``train_only_``."""
        self._freeze = None

    def freeze_anew_(self) -> None:
        """To be called after weights were changed on purpose: those that do not train then keep
        their present values."""
        self.train_only_(self.frozen()["free"], self._frozen_epochs)

    def begin_epoch(self) -> None:
        """To be called when an epoch begins: a ``train_only_`` may end."""
        if self._frozen_epochs == 0:
            self.train_all_()
        self._frozen_epochs -= 1

    def frozen(self) -> dict[str, Any]:
        """Which weights train, and for how long: the arguments of ``train_only_``."""
        free = dict(self._freeze.free) if self._freeze else {}
        return {"free": free, "epochs": self._frozen_epochs}

    def know(self, optimizer: Optimizer) -> None:
        """Treats ``optimizer`` as one that has stepped, such as before this process began."""
        if optimizer not in self.alive():
            self._seen.append(weakref.ref(optimizer))

    def alive(self) -> list[Optimizer]:
        """The optimizers that stepped a parameter and still exist, the latest first."""
        return [found for ref in reversed(self._seen) if (found := ref()) is not None]

    def trainers(self) -> list[Optimizer]:
        """The latest of these for each parameter: an optimizer is left out if a later one has
        stepped any of its parameters."""
        chosen: list[Optimizer] = []
        covered: set[int] = set()
        for optimizer in self.alive():
            mine = _parameters(optimizer)
            if not mine & covered:
                chosen.append(optimizer)
                covered |= mine
        return chosen

    def fit_(self, shrunk: Shrunk) -> None:
        """To be called when parameters have got other shapes: the state of the optimizers follows
        at once, or before the first step of one that has not been seen yet."""
        self.version += 1
        for parameter, change in shrunk.items():
            self._shrunk[parameter] = [*self._shrunk.get(parameter, []), change]
        for optimizer in self.alive():
            fit_(optimizer, {parameter: [change] for parameter, change in shrunk.items()})

    def has_shrunk(self, parameter: nn.Parameter) -> bool:
        """Whether channels were taken out of a parameter."""
        return parameter in self._shrunk

    def began_as_(self, model: nn.Module, first: Mapping[str, Sequence[int]]) -> None:
        """``model``, which is watched from now on, was once of the shapes ``first``."""
        for name, parameter in model.named_parameters():
            if name in first and tuple(first[name]) != parameter.shape:
                self.at_first[name] = tuple(first[name])
                self._shrunk[parameter] = [Change(Size(first[name]), None)]

    def zero_moments_(self) -> None:
        """Sets the optimizers' state for cut weights to 0."""
        for optimizer in self.alive():
            self.masks.zero_moments_(optimizer)

    def meets(self, optimizer: Optimizer) -> bool:
        """Whether ``optimizer`` trains the network and has not been seen yet."""
        if self._seen and self._seen[-1]() is optimizer:
            return False
        return optimizer not in self.alive() and self._trains(optimizer, _parameters(optimizer))

    def before(self, optimizer: Optimizer, closure: bool = False) -> None:
        """Records that ``optimizer`` is about to step, calls the observers, and sets the gradients
        of cut weights to 0."""
        mine = _parameters(optimizer)
        if not self._seen or self._seen[-1]() is not optimizer:
            if not self._trains(optimizer, mine):
                return
            known = optimizer in self.alive()
            self._seen = [ref for ref in self._seen if ref() not in (None, optimizer)]
            self._seen.append(weakref.ref(optimizer))
            if not known:  # its state may be from before the cut
                fit_(optimizer, self._changes_of(optimizer))
                self.masks.zero_moments_(optimizer)
        if not closure:
            self.observe(optimizer)
        self.masks.zero_cut_gradients_(mine)
        if self._freeze and (model := self._model()) is not None:
            self._freeze.zero_gradients_(model, mine)

    def observe(self, optimizer: Optimizer) -> None:
        """Shows the gradients that ``optimizer`` is about to use to the observers."""
        if self.observers and optimizer not in self._strangers:
            mine, weights = _parameters(optimizer), self.masks.weights()
            trained = {name: weight for name, weight in weights.items() if id(weight) in mine}
            for observer in self.observers:
                observer(trained, gradient_scale(optimizer))

    def after(self, optimizer: Optimizer, had_closure: bool) -> None:
        """Zeroes the cut weights that ``optimizer`` has stepped."""
        if optimizer not in self._strangers:
            if self._freeze and (model := self._model()) is not None:
                self._freeze.restore_(model, _parameters(optimizer))
            self.masks.zero_cut_(_parameters(optimizer))
            if had_closure:  # it computed gradients after these were set to 0
                self.masks.zero_moments_(optimizer)
            self._followers = [method for method in self._followers if method() is not None]
            if self._followers and (model := self._model()) is not None:
                for method in self._followers:
                    if (follow := method()) is not None:
                        follow(model)

    def _changes_of(self, optimizer: Optimizer) -> dict[Tensor, list[Change]]:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        return {p: self._shrunk[p] for p in parameters if p in self._shrunk}

    def _trains(self, optimizer: Optimizer, mine: set[int]) -> bool:
        if self._strangers.get(optimizer) == len(mine):  # and no parameter was added to it since
            return False
        model = self._model()
        if model is not None and any(id(parameter) in mine for parameter in model.parameters()):
            self._strangers.pop(optimizer, None)
            return True
        self._strangers[optimizer] = len(mine)
        return False


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
