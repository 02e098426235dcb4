"""How is a penalty that makes weights small added to the gradients of a training step?"""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from refine.channels.verify import usable_groups
from refine.regularization.penalties import (
    Penalty,
    bn_scale,
    group_norm,
    growing_reg,
    grown,
    l1,
    none,
)
from refine.regularization.weights import BATCH_NORM, Weights
from refine.sparsity.layers import layer_path, prunable_names
from refine.sparsity.shrink import Smaller

# What was published for each, Network Slimming's also for l1.
STRENGTHS: dict[Penalty, float] = {bn_scale: 1e-5, l1: 1e-5, group_norm: 5e-4, growing_reg: 1e-4}


class Regularizer:
    """Adds the gradient of a penalty of ``kind``, a function of refine.regularization.penalties, to
    the gradients of a step.

    Two lines in a training loop, and a third after channels were taken out::

        regularizer = Regularizer(group_norm, images)
        regularizer.begin_epoch(epoch, steps)  # epoch: 1, 2, …
        regularizer.add_gradients_(model)  # after backward (and unscaling), before clip and step
        regularizer.shrunk_(model, smaller)

    example: inputs of the network, (N, ...); the first is used to find the channels. ``none`` and
        ``l1`` need no channels.
    strength: by default the published one; see ``STRENGTHS``.
    growth: by how much, at most, ``growing_reg`` raises the strength in an epoch, from the second
        epoch that it acts in.
    warmup: over how many epochs the strength rises from 0, linearly.
    start, stop: it acts in the epochs start + 1, …, stop.
    protected: names of layers or tensors whose output channels (with ``l1``, whose weights) are not
        pulled at. Channels of the network's outputs never are, except by ``l1``.

    Channels are found at the first step that needs them, or by ``prepare``. ValueError where the
    penalty finds nothing to act on, or torch-pruning, which finds channels, is not installed.
    """

    def __init__(
        self,
        kind: Penalty = none,
        example: Tensor | None = None,
        *,
        strength: float | None = None,
        growth: float = 1e-5,
        warmup: int = 0,
        start: int = 0,
        stop: int | None = None,
        protected: Iterable[str] = (),
    ):
        strength = STRENGTHS.get(kind, 1e-4) if strength is None else strength
        if not (isfinite(strength) and strength >= 0 and isfinite(growth) and growth >= 0):
            raise ValueError("regularizer.strength and regularizer.growth: at least 0")
        if warmup < 0 or start < 0 or (stop is not None and stop <= start):
            raise ValueError(
                "regularizer.warmup, regularizer.start: at least 0; regularizer.stop: after start"
            )
        self._by_channel = kind not in (none, l1)
        if self._by_channel and example is None:
            raise ValueError(
                f"regularizer={kind.__name__} needs an example of the network's inputs"
            )
        self.kind, self.strength, self.growth = kind, strength, growth
        self.warmup, self.start, self.stop = warmup, start, stop
        self._example = None if example is None else example[:1].detach().clone()
        self._protected = frozenset(protected)
        self._epoch, self._steps, self._step = 0, 1, 0
        self._grown_epoch = 0  # the last epoch whose growth was added
        self._weights: Weights | None = None
        # For growing_reg: the strengths by root layer, and all of them in the order of the weights.
        self._strengths: dict[str, Tensor] = {}
        self._roots: dict[str, tuple[int, int]] = {}
        self._flat: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether it acts in this epoch."""
        in_time = self.start < self._epoch and (self.stop is None or self._epoch <= self.stop)
        return self.kind is not none and in_time

    @property
    def share(self) -> float:
        """How much of the strength acts at the present step."""
        if not self.warmup:
            return 1.0
        epochs = self._epoch - self.start - 1 + min(1.0, self._step / self._steps)
        return min(1.0, epochs / self.warmup)

    def begin_epoch(self, epoch: int, steps: int = 1) -> None:
        """Epoch 1, 2, … of ``steps`` training steps begins. Without ``steps`` the warm-up rises
        once an epoch, from the first on."""
        self._epoch, self._steps, self._step = epoch, max(1, steps), 0

    def prepare(self, model: nn.Module) -> None:
        """Finds the weights to act on now rather than at the first step; ``model`` is not
        changed."""
        if self.kind is not none:
            self._found(model)

    def _found(self, model: nn.Module) -> Weights:
        if self._weights is None:
            weights = self._find(model)
            if self.kind is growing_reg:
                self._begin(weights)
            self._weights = weights
        return self._weights

    def _find(self, model: nn.Module) -> Weights:
        name = self.kind.__name__
        if not self._by_channel:
            names = [tensor for tensor in prunable_names(model) if not self._protects(tensor)]
            if not names:
                raise ValueError(f"regularizer={name}: there is no prunable weight that trains")
            return Weights(model, prunable=names)
        if self._example is None:
            raise ValueError(f"regularizer={name} needs an example of the network's inputs")
        example = self._example.to(next(model.parameters()).device)
        groups, others = usable_groups(model, example, self._protected)
        if not groups:
            left = "; ".join(f"{layer}: {reason}" for layer, reason in others.items())
            raise ValueError(f"regularizer={name}: no channels can be pruned ({left})")
        weights = Weights(model, groups)
        modules = dict(model.named_modules())
        norms = [modules.get(norm) for group in groups for norm in group.norms]  # or a parameter
        if self.kind is bn_scale and not any(isinstance(norm, BATCH_NORM) for norm in norms):
            raise ValueError(f"regularizer={name}: there is no batch norm of channels to be pruned")
        return weights

    @torch.no_grad()
    def add_gradients_(self, model: nn.Module) -> None:
        """Adds the penalty's gradient. Frozen parameters, those without a gradient and those with a
        sparse one are left out. RuntimeError if the network's widths have changed."""
        self._step += 1
        if not self.active:
            return
        weights, strength = self._found(model), self.strength
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if not weights.fit(parameters):
            raise RuntimeError("the network's widths have changed: the regularizer needs shrunk_")
        if self._by_channel and not weights.count:  # all have come down to one channel
            return
        weights.to_(next(iter(parameters.values())).device)
        if self._flat is not None:
            self._flat = self._flat.to(weights.device)
            if self._epoch > max(self._grown_epoch, self.start + 1):
                self._flat = grown(parameters, weights, self._flat, self.growth)
                parts = self._flat.cpu().split([*weights.widths.values()])
                self._strengths |= zip(weights.widths, parts, strict=True)
                self._grown_epoch = self._epoch
        strengths = strength if self._flat is None else self._flat
        self.kind(parameters, weights, strengths * self.share)

    def forget(self) -> None:
        """To be called when the network was replaced by one of other widths: channels are found
        again, and their strengths start again."""
        self._weights = self._flat = None
        self._strengths, self._roots = {}, {}

    def shrunk_(self, model: nn.Module, smaller: Smaller) -> None:
        """Called when ``model`` has become ``smaller``: channels that stay keep their strengths,
        and the model's channels are found again at the next step."""
        for root, strengths in self._strengths.items():
            positions = smaller.positions.get(f"{root}.weight".removeprefix("."))
            if positions is not None:
                dimension, apart = self._roots[root]
                stay = (positions.cpu().flatten() // apart % len(strengths)).unique()
                self._strengths[root] = strengths[stay]
                self._roots[root] = dimension, positions.shape[dimension + 1 :].numel()
        self._weights = self._flat = None

    def state_dict(self) -> dict[str, Any]:
        """Its position in training and the grown strengths, to be saved; not a copy."""
        return {
            "epoch": self._epoch,
            "steps": self._steps,
            "step": self._step,
            "grown_epoch": self._grown_epoch,
            "strengths": dict(self._strengths),
            "roots": {root: list(place) for root, place in self._roots.items()},
        }

    def load_state_dict(self, state: dict[str, Any], model: nn.Module | None = None) -> None:
        """Restores a ``state_dict``; the network must have the widths that it had then."""
        self._epoch, self._steps, self._step = state["epoch"], state["steps"], state["step"]
        self._grown_epoch = state["grown_epoch"]
        self._strengths = {root: each.cpu() for root, each in state["strengths"].items()}
        self._roots = {root: (place[0], place[1]) for root, place in state["roots"].items()}
        self._weights = self._flat = None

    def _begin(self, weights: Weights) -> None:
        for root, width in weights.widths.items():
            known = self._strengths.setdefault(root, torch.full((width,), float(self.strength)))
            if len(known) != width:
                raise ValueError(
                    f"the regularizer knows {len(known)} channels of {root}, not {width}: it is of "
                    "another network, or shrunk_ was not called"
                )
        self._roots |= weights.roots
        self._flat = torch.cat(
            [torch.zeros(0), *(self._strengths[root] for root in weights.widths)]
        )

    def _protects(self, tensor: str) -> bool:
        return not self._protected.isdisjoint((tensor, layer_path(tensor)))
