"""What if the network has other layers than at the last cycle?

A layer that was replaced, such as a head for other classes, or that is new, lives whole; the masks
of one that has gone are dropped. A tensor that trains now, and did not before, may be cut.
"""

import logging
from math import prod

import torch
from torch import Tensor, nn

from refine.sparsity.layers import prunable_names, said
from refine.sparsity.masks import Masks
from refine.sparsity.optimizers import OptimizerWatch

log = logging.getLogger("refine")
TRAINS = "new, or trains only now: may be cut"


def follow_(watch: OptimizerWatch, model: nn.Module) -> None:
    """Brings the masks and first shapes to what ``model`` is now, and says what has changed."""
    masks, parameters = watch.masks, dict(model.named_parameters())
    changes = {name: change for name in masks if (change := _change(masks, name, model))}
    for name in changes:
        masks.prunable -= prod(watch.at_first[name])
        _drop_(masks, name)
    coming = [name for name in changes if name in parameters]
    if not watch.named:
        names = prunable_names(model)
        changes |= dict.fromkeys([n for n in names if n not in {*masks, *changes}], TRAINS)
        coming = [name for name in changes if name in names]
    for name in coming:
        masks.places.find_(model, name)
        masks._alive[name] = torch.ones_like(parameters[name], dtype=torch.bool)
        masks.prunable += parameters[name].numel()
    for name, parameter in parameters.items():
        if not watch.has_shrunk(parameter):
            watch.at_first[name] = tuple(parameter.shape)
    if changes:
        watch.structure += 1
        log.warning("the network has changed since the last cycle: %s", said(changes))


def _drop_(masks: Masks, name: str) -> None:
    along = [parameter for parameter, tensor in masks.attached.items() if tensor == name]
    for parameter in (name, *along):
        for home in (masks._alive, masks._holds, masks._channels, masks._attached):
            home.pop(parameter, None)


def _change(masks: Masks, name: str, model: nn.Module) -> str:
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
    if owner is not masks.places.owner(name):
        if not _has_the_cuts(tensor, masks[name]):
            return "replaced: all of its weights live"
        masks.places.find_(model, name)
    return ""


@torch.no_grad()
def _has_the_cuts(tensor: Tensor, mask: Tensor) -> bool:
    """Whether a tensor of a new layer is 0 wherever the old one was cut: it was converted, and the
    mask is still right."""
    return not tensor[~mask.to(tensor.device)].any()
