"""What does a network start from, before its first step?"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from refine.builders.pruner import ALLOCATIONS, layers_of
from refine.builders.saved import Saved, check_fit, check_images, head_of, remedy_for_network, saved
from refine.config.instantiate import function
from refine.config.schema import RunConfig
from refine.datasets.course import Course
from refine.errors import SettingError
from refine.pruning.allocation import BoundedAllocation
from refine.pruning.cut import sparsify_
from refine.refinement import RuntimeRefinement
from refine.sparsity.shrink import reshape_
from refine.stored.rebuild import load_tensors_


def begin_(config: RunConfig, refinement: RuntimeRefinement, course: Course) -> None:
    """Loads ``start_from`` into the network and cuts it to ``pruner.initial_sparsity``."""
    node, masks = config.pruner, refinement.masks
    if config.start_from is not None:
        stored = saved("start_from", config.start_from)
        load_into_(
            stored,
            refinement.model,
            course,
            refinement.reshape_,
            new_head=config.start_from_head == "new",
        )
        masks.cut_({name: weight.detach() == 0 for name, weight in masks.weights().items()})
    if not node.initial_sparsity:
        return
    share = masks.prunable / refinement.total_parameters
    if node.initial_sparsity >= share:
        problem = f"must be below {share:.4f}, the share that can be cut"
        raise SettingError("pruner.initial_sparsity", problem)
    rule = function("pruner.initial_allocation", node.initial_allocation, ALLOCATIONS)
    # Shares other than 0 apply to cycles, and this is not one.
    stay = {glob: 0.0 for glob, share in layers_of(node).items() if not share}
    bounded = BoundedAllocation(rule, stay, node.min_layer_density)
    sparsify_(refinement.model, masks, node.initial_sparsity / share, bounded)


def load_into_(
    stored: Saved,
    model: nn.Module,
    course: Course,
    reshape: Callable[[Mapping[str, Sequence[int]]], object] | None = None,
    *,
    new_head: bool = False,
) -> None:
    """Loads stored parameters and buffers into ``model``, which first gets their widths, by
    ``reshape``, as channels may have been taken out. ``new_head``: its last layer keeps its initial
    values. SettingError if they are of another network or do not take the course's images."""
    example, tensors = course.example, dict(stored.tensors)
    head = head_of(model, example, len(course.tasks[0].classes))
    width = None
    if new_head:
        tensors, width = _with_new_head(stored, model, head)
    check_fit(
        Saved(stored.setting, stored.file, tensors, stored.description),
        model,
        head,
        example.shape[1:],
    )
    try:
        sizes = {name: tensor.shape for name, tensor in tensors.items()}
        _ = reshape_(model, sizes) if reshape is None else reshape(sizes)
        if new_head and head is not None:
            layer = model.get_submodule(head)
            if layer.weight.shape != width:
                layer.reset_parameters()  # type: ignore[operator]  # narrower, it is zeros
            tensors |= _own(layer, head)
        load_tensors_(model, tensors)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        problem = f"{stored.file} is of another network: {reason:.200}; "
        problem += remedy_for_network(stored.setting)
        if stored.description is not None and stored.description.folded:
            problem = f"{stored.file} has no batch norms any more, they were folded; "
            problem += "name the run's directory, or export without --fold"
        raise SettingError(stored.setting, problem) from error
    check_images(stored, model, example)


def _with_new_head(
    stored: Saved, model: nn.Module, head: str | None
) -> tuple[dict[str, Tensor], torch.Size]:
    """The stored tensors with the head's of ``model``, as narrow as what comes before it there, and
    the shape that its weights have in ``model``."""
    if head is None:
        raise SettingError(
            "start_from_head",
            "new needs a linear layer or convolution that is called last and has an output for "
            "each class, and this network has none; start from a file of these classes",
        )
    tensors, layer = dict(stored.tensors), model.get_submodule(head)
    for name, own in _own(layer, head).items():
        theirs = tensors.get(name, own)
        tensors[name] = own.new_empty(own.shape[:1] + theirs.shape[1:])
    return tensors, _own(layer, head)[f"{head}.weight"].shape


def _own(layer: nn.Module, name: str) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in layer.named_parameters(prefix=name, recurse=False)}
