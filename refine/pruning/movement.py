"""Is training moving a weight away from zero, or towards it?"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.pruning import Batches, Loss, Scores, Tensors
from refine.sparsity.layers import prunable_names


class movement:
    """-w g, summed over the training steps since ``begin_epoch``: low where training shrinks a
    weight (Sanh et al. 2020, arXiv:2005.07683).

    An importance with a memory (``importance.StatefulImportance``): ``observe`` must see every
    step. A prunable weight that had no gradient has not moved: it scores 0.
    """

    needs_steps = True

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def begin_epoch(self) -> None:
        """Forgets all steps before."""
        self._sums = {}

    @torch.no_grad()
    def observe(self, weights: Mapping[str, nn.Parameter], scale: Tensor | None = None) -> None:
        """Adds the gradients of ``weights``, just before an optimizer steps on them.

        scale: a factor that is still in the gradients, as with fused optimizers in fp16; not finite
            if they overflowed and the step will be skipped.
        """
        for name, weight in weights.items():
            gradient = weight.grad
            if gradient is None or gradient.is_sparse:
                continue
            total = self._sums.get(name)
            if total is None or total.shape != weight.shape:  # none yet, or the layer was replaced
                dtype = torch.promote_types(weight.dtype, torch.float32)
                total = torch.zeros_like(weight, dtype=dtype)
            elif total.device != weight.device:
                total = total.to(weight.device)
            self._sums[name] = total
            if scale is None:
                total.addcmul_(weight, gradient, value=-1)
            else:  # decided on the device, without waiting for it
                term = weight * (gradient.to(total.dtype) / scale.to(weight.device))
                total.sub_(torch.where(scale.to(weight.device).isfinite(), term, 0.0))

    def __call__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss = F.cross_entropy,
        names: Collection[str] | None = None,
    ) -> Scores:
        """The sums; ValueError if no step was observed since ``begin_epoch``."""
        if not self._sums:
            raise ValueError("movement has seen no training step since the epoch began")
        weights = dict(model.named_parameters())
        asked = prunable_names(model) if names is None else names
        moving = [name for name in asked if name in weights and weights[name].requires_grad]
        scores = {name: torch.zeros_like(weights[name]) for name in moving}
        for name, total in self._sums.items():
            if name in weights and weights[name].shape == total.shape:
                scores[name] = total.to(weights[name].device, copy=True)
        return scores

    def state_dict(self) -> Scores:
        """The sums by name."""
        return dict(self._sums)

    def load_state_dict(self, state: Tensors) -> None:
        """Continues from the sums of a ``state_dict``."""
        self._sums = {name: total.clone() for name, total in state.items()}
