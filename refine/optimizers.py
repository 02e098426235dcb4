"""Which optimizers train this network, and how do they leave cut weights at zero?"""

import weakref

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from refine.masks import Masks


class OptimizerWatch:
    """Follows every step of every torch optimizer that trains a masked weight.

    torch calls a global hook after each ``Optimizer.step``; so cut weights go back to 0.0 without
    anybody handing the optimizer over, and a cut can clear the moments that it left behind.
    Watching ends when this object is no longer referenced.
    """

    def __init__(self, masks: Masks):
        self.masks = masks
        self._seen: list[weakref.ref[Optimizer]] = []  # oldest step first
        this = weakref.ref(self)

        def stepped(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
            if (watch := this()) is not None:
                watch._stepped(optimizer)

        weakref.finalize(self, register_optimizer_step_post_hook(stepped).remove)

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

    def _stepped(self, optimizer: Optimizer) -> None:
        newest = self._seen[-1]() if self._seen else None
        if optimizer is not newest:
            if not _parameters(optimizer) & {id(w) for w in self.masks.weights().values()}:
                return
            known = optimizer in self.alive()
            self._seen = [ref for ref in self._seen if ref() not in (None, optimizer)]
            self._seen.append(weakref.ref(optimizer))
            if not known:  # it may remember gradients from before the cut
                self.masks.zero_moments_(optimizer)
        self.masks.zero_cut_()


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def fallback(parameters: list[torch.nn.Parameter]) -> Optimizer:
    """The optimizer of a replay in a network that nobody has trained yet: the paper's."""
    return torch.optim.Adam(parameters, lr=1e-3)
