"""How good would a network be with these weights back, after a little training?"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.objective import outputs
from refine.regrowth.regrowth import Regrown
from refine.sparsity.copies import copy_of


def trial(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    regrown: Regrown,
    batches: Iterable[Batch],
    loss: Callable[..., Tensor],
    steps: int,
    rate: float,
) -> nn.Module:
    """A copy of ``model`` with the ``regrown`` weights, after ``steps`` steps of SGD with momentum
    at the learning rate ``rate``. The ``batches`` are repeated as needed; ``model`` stays as it is.
    """
    copy = copy_of(model)
    weights = dict(copy.named_parameters())
    alive = {name: mask.to(weights[name].device) for name, mask in masks.items()}
    with torch.no_grad():
        for name, coming in regrown.marked.items():
            alive[name] = alive[name] | coming
            weights[name][coming] = regrown.values[name].to(weights[name])
    optimizer = torch.optim.SGD(weights.values(), lr=rate, momentum=0.9)
    copy.train()
    drawn = list(batches)
    if steps and not drawn:
        raise ValueError("a regrowth that is judged after training needs batches to train on")
    for inputs, targets in islice(chain.from_iterable(repeat(drawn)), steps):
        optimizer.zero_grad()
        loss(outputs(copy, inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in alive.items():
                weights[name].mul_(mask)
    return copy
