"""Does a network that was rebuilt answer as before?"""

from copy import deepcopy

import torch
from torch import Tensor, nn

SPREAD = 2.0  # deviations of random inputs: wider than normalised images are


class Answers:
    """What ``model`` answers to ``example`` (N, ...) and to random inputs of that shape, in double
    precision, so that any difference is one of meaning and not of rounding.

    exact: the greatest ``change`` that is rounding alone. A network whose code insists on single
    precision is asked in that.
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
        return deepcopy(model).eval().to(self._dtype)(self._inputs.to(self._dtype))

    def change(self, other: nn.Module) -> float:
        """The greatest difference of the answers of ``other``, as a share of the greatest answer;
        infinite if it cannot answer."""
        try:
            found = self._of(other)
        except Exception:  # the network's own code, with widths it may not know
            return float("inf")
        if found.shape != self._known.shape:
            return float("inf")
        scale = float(self._known.abs().max()) or 1.0
        change = float((found - self._known).abs().max()) / scale
        return change if change == change else float("inf")  # not a number is no equality
