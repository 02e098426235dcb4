"""From which weights does training continue after a cut?"""

from typing import Any

import torch
from torch import Tensor, nn

from refine.sparsity.masks import Masks
from refine.sparsity.shrink import Smaller


class WeightRewind:
    """Sets surviving weights back to their values of an earlier epoch (Frankle et al. 2019,
    arXiv:1903.01611; Renda et al. 2020, arXiv:2003.02389).

    epoch: after which the values are noted; 0 is before training. One copy of the parameters and
        buffers is held from then on, and the masks of tensors that had cut weights by then.

    Optimizers keep their state, such as momentum.
    """

    def __init__(self, model: nn.Module, masks: Masks, epoch: int):
        self.epoch = epoch
        self._model, self._masks = model, masks
        self._parameters: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        self._alive: dict[str, Tensor] = {}  # of tensors with weights that were cut then

    def note(self, epoch: int) -> None:
        """To be called after every epoch, before its cut, and with 0 before the first: copies the
        values if it is the epoch to note. Only its first call counts, as a run that is resumed from
        a checkpoint may call it again after the cut."""
        if epoch != self.epoch or self._parameters:
            return
        self._parameters = {n: p.detach().clone() for n, p in self._model.named_parameters()}
        self._buffers = {n: b.detach().clone() for n, b in self._model.named_buffers()}
        self._alive = {n: mask.clone() for n, mask in self._masks.items() if not mask.all()}
        if self._masks.attached_cut:
            self._alive |= self._attached()

    @torch.no_grad()
    def rewind_(self) -> None:
        """Gives every parameter and buffer the value that was noted, in place. Weights that are cut
        now stay 0.0; weights that were cut then and live now keep their present values.
        RuntimeError if nothing was noted."""
        if not self._parameters:
            raise RuntimeError(f"the weights of epoch {self.epoch} were not noted")
        parameters, buffers = (
            dict(found) for found in (self._model.named_parameters(), self._model.named_buffers())
        )
        for name, noted in self._parameters.items():
            now = parameters[name]
            if name in self._alive:
                alive, noted = self._alive[name].to(now.device), noted.to(now)
                noted = torch.where(alive, noted, now)
            now.copy_(noted)
        for name, noted in self._buffers.items():
            buffers[name].copy_(noted)
        self._masks.zero_cut_()

    def shrunk_(self, model: nn.Module, smaller: Smaller) -> None:
        """Called when ``model`` has become ``smaller``: of what was noted, the channels that stay
        are kept."""
        for noted in (self._parameters, self._buffers, self._alive):
            for name, value in noted.items():
                noted[name] = smaller.of(name, value)

    def state_dict(self) -> dict[str, Any]:
        """What was noted, to be saved; not a copy."""
        return {
            "epoch": self.epoch,
            "parameters": dict(self._parameters),
            "buffers": dict(self._buffers),
            "alive": dict(self._alive),
        }

    def load_state_dict(self, state: dict[str, Any], model: nn.Module | None = None) -> None:
        """Restores a ``state_dict``, with its epoch; its tensors may be on another device."""
        self.epoch = state["epoch"]
        self._parameters = dict(state["parameters"])
        self._buffers, self._alive = dict(state["buffers"]), dict(state["alive"])

    @torch.no_grad()
    def _attached(self) -> dict[str, Tensor]:
        """Masks of the biases and norms that belong to channels of which some are cut."""
        # An element can be 0 without being cut, so each is set to 1 to see which the masks zero.
        found = {}
        for name, parameter in self._model.named_parameters():
            if name in self._masks or parameter.dim() != 1:
                continue
            try:
                parameter.fill_(1.0)
                self._masks.zero_cut_({id(parameter)})
                alive = parameter != 0
            finally:
                parameter.copy_(self._parameters[name])
            if not alive.all():
                found[name] = alive
        return found
