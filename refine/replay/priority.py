"""How much is it worth to train on an example again?

Each is a function ``(examined, generator) -> priorities``: one number for each example of a batch;
the highest are kept. ``examined`` is what the network predicts for the batch (see examined.py),
computed only where it is asked for. Random numbers come from ``generator``, which is the CPU's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from refine.replay.examined import Examined

__all__ = ["disagreement", "entropy", "high_loss", "margin", "uniform"]

Priority = Callable[[Examined, torch.Generator], Tensor]
PASSES = 8  # under dropout; the spread of their mean is a third of a single pass's


def uniform(examined: Examined, generator: torch.Generator) -> Tensor:
    """A random number: every subset is equally likely."""
    return torch.rand(len(examined.targets), generator=generator)


def high_loss(examined: Examined, generator: torch.Generator) -> Tensor:
    """The loss under the network as it is now."""
    return examined.losses()


def entropy(examined: Examined, generator: torch.Generator) -> Tensor:
    """Entropy of the predicted distribution over classes, in nats; no label is used."""
    return _one_each(_entropy(examined.logits().log_softmax(1)))


def margin(examined: Examined, generator: torch.Generator) -> Tensor:
    """Minus the gap between the probabilities of the two most likely classes (Scheffer et al.
    2001); no label is used."""
    first, second = examined.logits().softmax(1).topk(2, dim=1).values.unbind(1)
    return _one_each(second - first)


def disagreement(examined: Examined, generator: torch.Generator) -> Tensor:
    """Mutual information between the prediction and the dropout mask, in nats: the entropy of the
    mean prediction less the mean entropy (BALD, Houlsby et al. 2011, arXiv:1112.5745; with dropout,
    Gal et al. 2017, arXiv:1703.02910). ValueError if the network has no dropout."""
    logs = examined.under_dropout(PASSES).log_softmax(2)
    mean = logs.logsumexp(0) - torch.tensor(float(PASSES)).log().item()
    each = torch.stack([_entropy(one) for one in logs])
    return _one_each((_entropy(mean) - each.mean(0)).clamp(min=0))  # rounding can go below


def _entropy(logs: Tensor) -> Tensor:
    """Of log-probabilities (N, classes, ...). A probability of 0 adds 0, not NaN."""
    return torch.special.entr(logs.exp()).sum(1)


def _one_each(values: Tensor) -> Tensor:
    """The mean over the positions of a dense prediction."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values
