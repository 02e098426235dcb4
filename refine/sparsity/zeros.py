"""Are the zeros of a network those of its masks?

An optimizer that is no torch optimizer, or an average, can write to cut weights; and a network can
have been loaded without its masks. Both are said, once for each.
"""

import logging

import torch
from torch import Tensor, nn

from refine.sparsity.masks import Masks
from refine.sparsity.optimizers import OptimizerWatch

log = logging.getLogger("refine")
NOTED = 0.01  # share of the prunable weights; fewer zeros can be chance, or so initialised


@torch.no_grad()
def say_written(watch: OptimizerWatch) -> None:
    """Sets cut weights to 0 that something has written to, and says so."""
    weights, masks = watch.masks.weights(), watch.masks
    found = {
        name: _nonzero(weights[name], ~mask) for name, mask in masks.items() if name in weights
    }
    if wrong := {name: count for name, count in found.items() if count}:
        masks.zero_cut_()
        where = ", ".join(list(wrong)[:4]) + ("" if len(wrong) <= 4 else ", …")
        log.warning(
            "%d cut weights were not 0 (%s), and are again: something other than the step of a "
            "torch optimizer writes to them, such as a wrapper that averages; call "
            "refinement.masks.zero_cut_() after it",
            sum(wrong.values()), where,
        )  # fmt: skip


@torch.no_grad()
def say_zeros(watch: OptimizerWatch) -> None:
    """Says once if a network without any mask has many weights that are exactly 0."""
    masks = watch.masks
    if watch.zeros_said or masks.masked:
        return
    watch.zeros_said = True
    # A tensor that is 0 as a whole was initialised so, as in adapters.
    counts = [(int((w == 0).sum()), w.numel()) for w in masks.weights().values()]
    zeros = sum(count for count, size in counts if count < size)
    share = zeros / max(1, sum(size for _, size in counts))
    if share >= NOTED:
        log.warning(
            "%.0f%% of the prunable weights are exactly 0 and not known as cut: training will "
            "change them. Load the refinement's state, or take them as cut: "
            "refinement.cut_zeros_()",
            100 * share,
        )


@torch.no_grad()
def zero_in_(model: nn.Module, masks: Masks) -> None:
    """Sets the weights of ``model``, another network, to 0.0 where these ``masks`` cut. ValueError
    if a tensor is not in it, or of another shape; then nothing changes."""
    alive = {name: masks.lives(name) for name in masks.attached} | dict(masks)
    parameters = dict(model.named_parameters())
    for name, mask in alive.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise ValueError(f"the other network has no parameter {name} of this network's shape")
    for name, mask in alive.items():
        parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def _nonzero(weight: Tensor, where: Tensor) -> int:
    return int(torch.count_nonzero(weight[where.to(weight.device)]))
