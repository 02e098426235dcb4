"""How much does a cut weight deserve to come back?

Each is a function ``(model, batches, masks, reference, loss, generator) -> scores``: a tensor of
the weights' shape for every name in ``masks``; the highest return first, and only positions that
are cut matter. ``batches`` can be iterated more than once and yields (inputs, targets) on the
model's device; ``loss(outputs, targets)`` is a mean; random numbers come from ``generator``, which
is on the CPU. None of them changes the network, its gradients or the process's own generators.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.evaluation.traceless import without_trace
from refine.objective import outputs
from refine.regrowth.reference import Reference

__all__ = ["gradient", "random", "reference", "saliency"]

Loss = Callable[..., Tensor]
Masks = Mapping[str, Tensor]
Scores = dict[str, Tensor]


def random(
    model: nn.Module,
    batches: Iterable[Batch],
    masks: Masks,
    reference: Reference | None,
    loss: Loss,
    generator: torch.Generator,
) -> Scores:
    """A random number in [0, 1) for every weight."""
    return {n: torch.rand(m.shape, generator=generator).to(m.device) for n, m in masks.items()}


def gradient(
    model: nn.Module,
    batches: Iterable[Batch],
    masks: Masks,
    reference: Reference | None,
    loss: Loss,
    generator: torch.Generator,
) -> Scores:
    """|dL/dw| of the sparse network in training mode, averaged over the batches before the absolute
    value is taken: how far training would move the weight next (RigL, arXiv:1911.11134)."""
    with without_trace(model, training=True):
        mean = _mean_over_batches(model, batches, masks, loss, lambda gradient, weight: gradient)
    return {name: value.abs_() for name, value in mean.items()}


def saliency(
    model: nn.Module,
    batches: Iterable[Batch],
    masks: Masks,
    reference: Reference | None,
    loss: Loss,
    generator: torch.Generator,
) -> Scores:
    """(w dL/dw)^2 of the reference, averaged over the batches: to first order the squared change of
    its loss without the weight (Molchanov et al. 2019, arXiv:1906.10771). In the sparse network
    every cut weight would score 0, as w is 0."""
    with _needed(reference, "saliency").in_place(model), without_trace(model, training=False):
        return _mean_over_batches(
            model, batches, masks, loss, lambda gradient, weight: (gradient * weight).square()
        )


def reference(
    model: nn.Module,
    batches: Iterable[Batch],
    masks: Masks,
    reference: Reference | None,
    loss: Loss,
    generator: torch.Generator,
) -> Scores:
    """At random, but those that live in the reference before all others (arXiv:2511.11675)."""
    lived = _needed(reference, "reference").masks
    draws = random(model, batches, masks, reference, loss, generator)
    return {name: drawn + lived[name].to(drawn.device) for name, drawn in draws.items()}


def _mean_over_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    masks: Masks,
    loss: Loss,
    value: Callable[[Tensor, Tensor], Tensor],
) -> Scores:
    """The mean of ``value(gradient, weight)``, in single precision at least. The gradient is 0 of a
    weight that has no effect on the loss, or does not train."""
    weights = {name: weight for name, weight in model.named_parameters() if name in masks}
    total = {
        name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for name, weight in weights.items()
    }
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
    count = 0
    for inputs, targets in batches:
        count += 1
        with torch.enable_grad():
            found = torch.autograd.grad(
                loss(outputs(model, inputs), targets), list(trained.values()), allow_unused=True
            )
        for (name, weight), gradient in zip(trained.items(), found, strict=True):
            if gradient is not None:
                wide = total[name].dtype
                total[name] += value(gradient.to(wide), weight.detach().to(wide))
    if not count:
        raise ValueError("this score needs data, and the loader yielded no batch")
    return {name: tensor / count for name, tensor in total.items()}


def _needed(reference: Reference | None, score: str) -> Reference:
    if reference is None:
        raise ValueError(f"the score {score!r} needs a reference: a denser state of the network")
    return reference
