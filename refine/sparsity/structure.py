"""What if the network has other layers than at the last cycle?

A layer that was replaced, such as a head for other classes, or that is new, lives whole; the masks
of one that has gone are dropped. A tensor that trains now, and did not before, may be cut.
"""

import logging
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refine.sparsity.layers import prunable_names, said

if TYPE_CHECKING:
    from refine.sparsity.masks import Masks
    from refine.sparsity.optimizers import OptimizerWatch

log = logging.getLogger("refine")


def follow_(watch: "OptimizerWatch", model: nn.Module) -> bool:
    """Brings the masks and first shapes to what ``model`` is now, and says what has changed;
    whether anything has."""
    masks, parameters = watch.masks, dict(model.named_parameters())
    changes = {name: change for name in masks if (change := _change(masks, name, model))}
    for name in changes:
        masks.drop_(name)
    coming = [name for name in changes if name in parameters]
    if not watch.named:
        names = prunable_names(model)
        changes |= dict.fromkeys([n for n in names if n not in (*masks, *changes)], "new, or trains")
        coming = [name for name in changes if name in names]
    for name in coming:
        masks.add_(model, name)
    for name, parameter in parameters.items():
        if not watch.has_shrunk(parameter):
            watch.at_first[name] = tuple(parameter.shape)
    if changes:
        log.warning("the network has changed since the last cycle: %s", said(changes))
    return bool(changes)


def _change(masks: "Masks", name: str, model: nn.Module) -> str:
    """What has happened to a masked tensor: nothing, an empty text, if its layer is the same."""
    path, _, attribute = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
        tensor = getattr(owner, attribute)
    except AttributeError:
        return "gone, and so are its cuts"
    if not isinstance(tensor, Tensor):
        return "gone, and so are its cuts"
    if tensor.shape != masks[name].shape:
        return "of another size: all of its weights live"
    if owner is not masks.owner(name) and not _has_the_cuts(tensor, masks[name]):
        return "replaced: all of its weights live"
    return ""


@torch.no_grad()
def _has_the_cuts(tensor: Tensor, mask: Tensor) -> bool:
    """Whether a tensor of a new layer is 0 wherever the old one was cut: it was converted, and the
    mask is still right."""
    return not tensor[~mask.to(tensor.device)].any()
