"""What can a subclass of RuntimeRefinement change? How it scores weights, and how it cuts."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from refine.cycle import STEPS, Cycle, Parts, Step, choose, cut
from refine.pruning.allocation import layerwise
from refine.pruning.granularity import filter as whole_filters
from refine.sparsity.masks import Masks


class Overridable:
    """Two methods that a subclass may have: each replaces a part of every cycle."""

    model: nn.Module
    masks: Masks
    parts: Parts

    def estimate_importance(self) -> Mapping[str, Any]:
        """The score of every weight by the tensor's name, lowest cut first; gradients are those
        that there are. One number for a tensor ranks the tensors, and within each the smallest
        weights go first; that matters to an allocation that compares layers, such as global_. By
        default |w|; a subclass's is used in place of the pruner's."""
        return {name: weight.detach().abs() for name, weight in self.masks.weights().items()}

    def prune_structured(self, prune_ratio: float = 0.2) -> Mapping[str, int] | None:
        """Sets whole filters to 0 and holds them there: of every layer the share ``prune_ratio``,
        those of the smallest weights; returns how many weights of each tensor. With
        ``pruner=Structured()`` cycles take such channels out of the network.

        A subclass's is called in every cycle, and takes the place of its cut: what it sets to
        exactly 0 in ``self.model`` is cut."""
        granularity = whole_filters(self.model, list(self.masks))
        for name, parameters in granularity.attached.items():
            self.masks.attach(self.model, name, parameters)
        scores = granularity.group(dict(Overridable.estimate_importance(self)), self.masks)
        counts = granularity.whole(scores, self.masks, layerwise(scores, self.masks, prune_ratio))
        marked = self.masks.lowest(scores, counts)
        self.masks.cut_(marked)
        self.parts.watch.zero_moments_()
        return {name: int(going.sum()) for name, going in marked.items()}

    def _scores(self) -> Callable[..., dict[str, Tensor]] | None:
        """The subclass's importance, if it has one."""
        if type(self).estimate_importance is Overridable.estimate_importance:
            return None
        own = self.estimate_importance

        def estimate_importance(model: nn.Module, batches: object) -> dict[str, Tensor]:
            return for_every_weight(own(), self.masks.weights())

        return estimate_importance

    def _steps(self) -> tuple[Step, ...]:
        """The steps of a cycle, with the subclass's cut, if it has one."""
        if type(self).prune_structured is Overridable.prune_structured:
            return STEPS

        def cut_by_hand(cycle: Cycle) -> None:
            if cycle.ratio > 0:
                with torch.no_grad():
                    self.prune_structured(cycle.ratio)
                weights = self.masks.weights()
                cycle.choice = {n: (weights[n] == 0) & m for n, m in self.masks.items()}
            cut(cycle)

        return tuple(cut_by_hand if step is cut else step for step in STEPS if step is not choose)


def placed(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    """``model``, moved to ``device`` if there is one. ValueError where the machine has none."""
    if device is None:
        return model
    wanted = torch.device(device)
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}: there is no GPU that PyTorch can use here")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={str(device)!r}: there is no Apple GPU here")
    return model.to(wanted)


def for_every_weight(given: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the weights' shapes. Where there is one number for a tensor, its weights rank by
    their magnitude between that number and the next tensor's."""
    single = {n: float(v) for n, v in given.items() if n in weights and _is_number(v)}
    levels = sorted(set(single.values()))
    gaps = [high - low for low, high in pairwise(levels)]
    room = 0.5 * min(gaps, default=1.0)
    scores = {n: value for n, value in given.items() if n in weights and n not in single}
    for name, number in single.items():
        size = weights[name].detach().abs().double()
        scores[name] = number + room * size / size.max().clamp(min=torch.finfo(size.dtype).tiny)
    return scores


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1
