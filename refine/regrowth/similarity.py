"""How similar are the feature maps of a network and its denser reference?"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.evaluation.traceless import without_trace
from refine.regrowth.reference import Reference

UNKNOWN = 0.5  # for layers without a map, or with one of fewer than SMALLEST pixels a side
SMALLEST, WINDOW = 3, 7


def feature_similarity(
    model: nn.Module, batches: Iterable[Batch], masks: Mapping[str, Tensor], reference: Reference
) -> dict[str, float]:
    """The structural similarity, at most 1, of each prunable tensor's feature map now and in the
    reference (arXiv:2511.11675).

    The map of a convolution is its output before any normalisation: summed over the channels, each
    image divided by its L1 norm, averaged over the images, scaled to [0, 1]. It takes two passes
    over ``batches``, (inputs, targets) on the model's device, and holds one map for each layer.
    """
    layers = {
        name: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and (name := f"{path}.weight".lstrip(".")) in masks
    }
    now = _maps(model, batches, layers)
    with reference.in_place(model):
        then = _maps(model, batches, layers)
    return {name: _similarity(now.get(name), then.get(name)) for name in masks}


def _maps(
    model: nn.Module, batches: Iterable[Batch], layers: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """A map of (height, width) for each of the ``layers``."""
    sums: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def add(
            module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name
        ) -> None:
            each = output.detach().float().sum(-3).reshape(-1, *output.shape[-2:])
            norms = each.abs().sum((1, 2), keepdim=True)
            total = torch.where(norms > 0, each / norms, 0).sum(0)
            if name not in sums or sums[name].shape == total.shape:
                sums[name] = sums.get(name, 0) + total

        handles.append(layer.register_forward_hook(add))
    try:
        with without_trace(model, training=False), torch.no_grad():
            for inputs, _ in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _scaled(total) for name, total in sums.items()}  # the mean would give the same


def _scaled(image: Tensor) -> Tensor:
    low, high = image.aminmax()
    return (image - low) / (high - low) if high > low else torch.zeros_like(image)


def _similarity(now: Tensor | None, then: Tensor | None) -> float:
    if now is None or then is None or now.shape != then.shape or min(now.shape) < SMALLEST:
        return UNKNOWN
    # The import takes a second, so it is done only here.
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(WINDOW, *now.shape)
    found = structural_similarity_index_measure(
        now[None, None],
        then[None, None],
        gaussian_kernel=False,
        kernel_size=side - 1 + side % 2,
        data_range=1.0,
    )
    assert isinstance(found, Tensor)  # nothing else was asked for
    return float(found)
