"""How much of a network is left?"""

from math import prod

from torch import nn

from refine.cycle import Parts
from refine.sparsity.optimizers import OptimizerWatch
from refine.sparsity.structure import follow_


class Counts:
    """What a refinement tells of its network."""

    model: nn.Module
    parts: Parts

    @property
    def cycles(self) -> int:
        """How many cycles there have been."""
        return self.parts.cycles

    @property
    def total_parameters(self) -> int:
        """All parameters that the model had at first, also those that are never cut."""
        first = self._now.at_first
        return sum(prod(first[name]) for name, _ in self.model.named_parameters())

    @property
    def active_parameters(self) -> int:
        """All parameters except cut weights and what was cut with their channels."""
        masks = self._now.masks
        present = sum(parameter.numel() for parameter in self.model.parameters())
        return present - masks.masked - masks.attached_cut

    @property
    def sparsity(self) -> float:
        """Share of all parameters that was cut."""
        return 1 - self.active_parameters / self.total_parameters

    @property
    def prunable_sparsity(self) -> float:
        """Share of the prunable weights that was cut."""
        masks = self._now.masks
        return 1 - masks.surviving / masks.prunable

    @property
    def _now(self) -> OptimizerWatch:
        """The watch, which knows of the layers that the model has now."""
        follow_(self.parts.watch, self.model)
        return self.parts.watch
