"""How much does a channel matter?

Each is a function ``(group) -> scores``: one number for each channel of a group of torch-pruning;
the lowest go first. None if there is no score for such a group. The scores are that library's own,
with the settings of its published runs (github.com/VainF/Torch-Pruning). Those in
``NEED_GRADIENTS`` read the gradients of the weights.
"""

from typing import Any

from torch import Tensor

__all__ = [
    "bn_scale",
    "fpgm",
    "group_norm",
    "growing_reg",
    "lamp",
    "magnitude",
    "random",
    "taylor",
]


def magnitude(group: Any) -> Tensor | None:
    """Sum of |w| (Li et al. 2017, arXiv:1608.08710), its mean over the layers of the group."""
    return _library().MagnitudeImportance(p=1)(group)


def bn_scale(group: Any) -> Tensor | None:
    """|scale| of the group's batch norms (Network Slimming, Liu et al. 2017, arXiv:1708.06519)."""
    return _library().BNScaleImportance()(group)


def group_norm(group: Any) -> Tensor | None:
    """Sum of w^2 as a share of the group's greatest (DepGraph, Fang et al. 2023,
    arXiv:2301.12900)."""
    return _library().GroupMagnitudeImportance(p=2, normalizer="max")(group)


def growing_reg(group: Any) -> Tensor | None:
    """Sum of w^2 as a share of the group's mean (GReg, Wang et al. 2021, arXiv:2012.09243)."""
    return _library().GroupMagnitudeImportance(p=2)(group)


def taylor(group: Any) -> Tensor | None:
    """Sum of |w g| (Molchanov et al. 2019, arXiv:1906.10771)."""
    for number, (dependency, indices) in enumerate(group):
        # The library sorts the indices, but not the channels that they belong to.
        pairs = sorted(zip(indices, group[number].root_idxs, strict=True))
        group[number] = type(group[number])(dependency, [index for index, _ in pairs])
        group[number].root_idxs = [channel for _, channel in pairs]
    return _library().GroupTaylorImportance()(group)


def random(group: Any) -> Tensor | None:
    """A random number, from torch's CPU generator."""
    return _library().RandomImportance()(group)


def fpgm(group: Any) -> Tensor | None:
    """Distance to the layer's other filters (FPGM, He et al. 2019, arXiv:1811.00250)."""
    return _library().FPGMImportance()(group)


def lamp(group: Any) -> Tensor | None:
    """Sum of w^2 as a share of that of all channels of the group that are not smaller (Lee et al.
    2021, arXiv:2010.07611)."""
    return _library().LAMPImportance()(group)


def _library() -> Any:
    from torch_pruning.pruner import importance

    return importance


NEED_GRADIENTS = (taylor,)
