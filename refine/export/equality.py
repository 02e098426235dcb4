"""Does a rebuilt network give the same outputs as before?"""

from copy import deepcopy

import torch
from torch import Tensor, nn

SPREAD = 2.0  # standard deviation of random inputs: wider than normalised images are


class ReferenceOutputs:
    """The outputs of ``model`` for ``example`` (N, ...) and for random inputs of that shape.

    They are in double precision, so that a difference is not one of rounding. A network whose code
    insists on single precision is run in that. exact: the greatest ``change`` that can be rounding.
    """

    def __init__(self, model: nn.Module, example: Tensor):
        draw = torch.Generator().manual_seed(0)
        noise = SPREAD * torch.randn(example.shape, generator=draw)
        self._inputs = torch.cat([example.cpu(), noise.to(example.dtype)])
        try:
            self._dtype, self.exact = torch.float64, 1e-9
            self._known = self._of(model)
        except RuntimeError:  # of operands whose types differ
            self._dtype, self.exact = example.dtype, 1e-5
            self._known = self._of(model)

    @torch.no_grad()
    def _of(self, model: nn.Module) -> Tensor:
        outputs: Tensor = deepcopy(model).eval().to(self._dtype)(self._inputs.to(self._dtype))
        return outputs

    def change(self, other: nn.Module) -> float:
        """The greatest difference of the outputs of ``other``, as a share of the greatest output;
        infinite if it fails or its outputs are not numbers."""
        try:
            found = self._of(other)
        except Exception:  # the network's own code may not work with other widths
            return float("inf")
        if found.shape != self._known.shape:
            return float("inf")
        scale = float(self._known.abs().max()) or 1.0
        change = float((found - self._known).abs().max()) / scale
        return change if change == change else float("inf")  # NaN is unequal to itself
