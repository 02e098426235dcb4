"""Which optimizers train this network, and how do they leave cut weights at zero?"""

import weakref

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from refine.masks import Masks

# One pair of hooks for all watches, never removed: a watch that goes while torch walks through its
# hooks must not change their number.
_watches: weakref.WeakSet["OptimizerWatch"] = weakref.WeakSet()
_hooked: list[RemovableHandle] = []


class OptimizerWatch:
    """Follows every step of every torch optimizer that trains a masked weight.

    torch calls global hooks around each ``Optimizer.step``. Before it the gradients of cut weights
    are cleared, so that their moments stay 0 and they take no part in what an optimizer makes of a
    whole tensor; after it the cut weights are, whatever the optimizer did. Nobody hands the
    optimizer over. Watching ends when this object is no longer referenced.
    """

    def __init__(self, masks: Masks):
        self.masks = masks
        self._seen: list[weakref.ref[Optimizer]] = []  # oldest step first
        if not _hooked:
            _hooked.append(register_optimizer_step_pre_hook(_before_step))
            _hooked.append(register_optimizer_step_post_hook(_after_step))
        _watches.add(self)

    def alive(self) -> list[Optimizer]:
        """The optimizers that stepped a masked weight and still exist, the latest first."""
        return [found for ref in reversed(self._seen) if (found := ref()) is not None]

    def trainers(self) -> list[Optimizer]:
        """Of these, the latest for each weight: an optimizer that another one has succeeded on
        the same weights is left out."""
        chosen: list[Optimizer] = []
        covered: set[int] = set()
        for optimizer in self.alive():
            mine = _parameters(optimizer)
            if not mine & covered:
                chosen.append(optimizer)
                covered |= mine
        return chosen

    def zero_moments_(self) -> None:
        """Clears what the optimizers remember of the weights that are cut."""
        for optimizer in self.alive():
            self.masks.zero_moments_(optimizer)

    def before(self, optimizer: Optimizer) -> None:
        """Notes that ``optimizer`` is about to step, and clears its gradients of cut weights."""
        newest = self._seen[-1]() if self._seen else None
        if optimizer is not newest:
            if not _parameters(optimizer) & {id(w) for w in self.masks.weights().values()}:
                return
            known = optimizer in self.alive()
            self._seen = [ref for ref in self._seen if ref() not in (None, optimizer)]
            self._seen.append(weakref.ref(optimizer))
            if not known:  # it may remember gradients from before the cut
                self.masks.zero_moments_(optimizer)
        self.masks.zero_cut_gradients_()

    def after(self, optimizer: Optimizer) -> None:
        """Zeroes the cut weights if it was this network's optimizer that stepped."""
        if self._seen and self._seen[-1]() is optimizer:
            self.masks.zero_cut_()


def _before_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    for watch in list(_watches):
        watch.before(optimizer)


def _after_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    for watch in list(_watches):
        watch.after(optimizer)


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def fallback(parameters: list[torch.nn.Parameter]) -> Optimizer:
    """The optimizer of a replay in a network that nobody has trained yet: the paper's."""
    return torch.optim.Adam(parameters, lr=1e-3)
