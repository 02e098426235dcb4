"""How does a cycle take channels out of a network?

What refine/pruning/cut.py is for weights, this is for channels.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import floor as whole
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from refine.channels.cost import Amount
from refine.channels.criteria import NEED_GRADIENTS
from refine.channels.groups import OF_THE_NETWORK, ChannelGroup, Graph, check_bare
from refine.channels.plan import Plan, Structured, plan
from refine.channels.verify import usable_groups
from refine.evaluation.cost import macs
from refine.evaluation.traceless import score
from refine.pruning.cut import downscale_, largest
from refine.pruning.gradients import mean_gradients
from refine.sparsity.masks import Masks
from refine.sparsity.shrink import reshape_, smaller_

log = logging.getLogger("refine")


class Watch(Protocol):
    """What refine/sparsity/optimizers.py knows of a model."""

    masks: Masks
    at_first: Mapping[str, Sequence[int]]
    version: int


class ChannelCut:
    """Plans cuts of ``model``'s channels as ``settings`` say, from its present state.

    example: inputs (N, ...) like those of the network, or None until ``look`` is given some.
    watch: that of the model, which knows its masks, its tensors' shapes at first and when they have
    changed since. only: the tensors whose outputs may go; by default all. All prunable weights are
    multiplied by ``downscale_factor`` before a cut. A plan changes nothing. ``number``: of the
    cycle, from 0.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Structured,
        example: Tensor | None = None,
        *,
        watch: Watch,
        only: Collection[str] | None = None,
        downscale_factor: float = 1.0,
    ):
        self.model, self.settings, self.number = model, settings, 0
        self.downscale_factor, self._watch, self._only = downscale_factor, watch, only
        self.left: dict[str, str] = {}
        self._example: Tensor | None = None
        self._roots: set[str] = set()  # of the groups that can be made narrower
        self._seen: tuple[int, list[ChannelGroup], int] | None = None  # version, groups, surviving
        check_bare(model)
        settings.named(model)
        if example is not None:
            self.look(example)

    @property
    def known(self) -> bool:
        """Whether an example has been looked at."""
        return self._example is not None

    def look(self, example: Tensor) -> None:
        """Finds out, once, which channels go together, from inputs (N, ...) of the network."""
        if self.known:
            return
        if not example.is_floating_point():
            raise ValueError("channels are found from floating-point inputs, such as images")
        self._example = example[:2].detach().clone()
        groups, self.left = usable_groups(self.model, self.example, self.protected)
        for name, reason in self.left.items():
            level = logging.DEBUG if reason == OF_THE_NETWORK else logging.INFO
            log.log(level, "%s keeps its channels: %s", name or "the network", reason)
        if not groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left.items())
            self._example = None
            raise ValueError(f"there is no channel that can be taken out ({reasons:.300})")
        self._roots = {group.root for group in groups}
        first = deepcopy(self.model)
        reshape_(first, self._watch.at_first)
        groups = self._groups_of(first)
        # Widths of the groups, by root, and what there was of the unit, at first.
        self.initial = {group.root: group.width for group in groups}
        self.full = Amount(self.settings.unit, first, self.example, groups).at(self.initial)
        self.dense_macs = macs(first, self.example.shape[1:])

    @property
    def example(self) -> Tensor:
        """Inputs of the network, where it is and in its precision."""
        if self._example is None:
            raise ValueError("no example of the inputs has been looked at yet")
        return self._example.to(next(self.model.parameters()))

    @property
    def protected(self) -> list[str]:
        """Layers whose outputs stay, by name."""
        stay = self.settings.named(self.model)
        if self._only is None:
            return stay
        weights = ((f"{name}.weight".removeprefix("."), name) for name, layer in self._layers())
        return [*stay, *(name for weight, name in weights if weight not in self._only)]

    @property
    def groups(self) -> list[ChannelGroup]:
        """The groups as they are now."""
        return self._now()[1]

    @property
    def widths(self) -> dict[str, int]:
        """Channels of each group now, by its root."""
        return {group.root: group.width for group in self.groups}

    @property
    def surviving(self) -> int:
        """How much there is now of what ``settings.unit`` counts."""
        return self._now()[2]

    def scored(self, batches: Iterable, loss: Callable[..., Tensor]) -> dict[str, Tensor]:
        """The gradients that the criterion needs, if it does."""
        if self.settings.criterion not in NEED_GRADIENTS:
            return {}
        return score(mean_gradients, self.model, batches, loss)

    def choose(self, gradients: Mapping[str, Tensor], ratio: float) -> Plan | None:
        """What a cut of ``ratio`` takes. ValueError where a goal in MACs or parameters is missed
        with every layer at its floor."""
        if ratio <= 0:
            return None
        surviving = self.surviving
        goal = surviving - (whole(ratio * (surviving - 1)) + 1)

        def planned(model: nn.Module, batches: Any) -> Plan:
            return self._plan(goal, gradients)

        found = score(planned, self.model, (), number=self.number)
        for root, reason in found.left.items():
            log.warning("%s keeps its channels: %s", root or "the network", reason)
        if found.amount > goal and self.settings.unit != "channels":
            raise ValueError(self.missed(found.amount, goal))
        if found.amount > goal:
            log.warning(
                "%d of %d channels are left where %d were to be: the other layers are at the "
                "floor that round_to, min_channels and min_density leave",
                found.amount, surviving, goal,
            )  # fmt: skip
        if found.amount == surviving:
            log.warning("this cut took nothing out")
        return found

    def missed(self, amount: int, goal: int) -> str:
        """In words, how far a cut has got."""
        unit = {"macs": "MACs"}.get(self.settings.unit, self.settings.unit)
        return (
            f"{self.full / goal:.2f}x fewer {unit} than at first were asked for, and "
            f"{self.full / amount:.2f}x is as far as it goes ({amount:,} of {self.full:,}), with "
            "every layer at the floor that min_channels, min_density and round_to leave, but for "
            "those that are protected or that the criterion has no score for"
        )

    def furthest(self) -> int:
        """How much would be left with every layer at its floor."""
        criterion = self.settings.criterion

        def last(group: Any) -> Tensor | None:
            if criterion not in NEED_GRADIENTS and criterion(group) is None:
                return None
            return torch.arange(len(group[0].idxs))

        settings = replace(self.settings, criterion=last, steps=1)
        return score(lambda *_: self._plan(0, {}, settings), self.model, ()).amount

    def _plan(
        self, goal: int, gradients: Mapping[str, Tensor], settings: Structured | None = None
    ) -> Plan:
        return plan(
            self.model,
            self.example,
            self.groups,
            settings or self.settings,
            self.initial,
            goal,
            gradients,
            self.protected,
        )

    def downscale_(self) -> None:
        """Multiplies the prunable weights by the factor."""
        downscale_(self._watch.masks.weights().values(), self.downscale_factor)

    def within(
        self,
        floor: float,
        validate: Callable[[nn.Module], float] | None,
        gradients: Mapping[str, Tensor],
        ratio: float,
        chosen: Plan,
    ) -> tuple[float, Plan | None]:
        """The largest cut up to ``ratio``, which takes ``chosen``, with which ``validate`` says
        ``floor`` at least of a copy, and what it takes."""
        if validate is None:
            raise ValueError("a floor needs validate, which measures accuracy on validation data")

        def passes(tried: Plan) -> bool:
            copy = deepcopy(self.model)
            weights = dict(copy.named_parameters())
            downscale_([weights[name] for name in self._watch.masks], self.downscale_factor)
            smaller_(copy, tried.smaller)
            return validate(copy) >= floor

        return largest(ratio, chosen, lambda lower: self.choose(gradients, lower), passes, None)

    def left_now(self) -> dict[str, int]:
        """Channels and multiply-accumulates of one input that are there now."""
        return {
            "channels": sum(self.widths.values()),
            "macs": macs(self.model, self.example.shape[1:]),
        }

    def _now(self) -> tuple[int, list[ChannelGroup], int]:
        version = self._watch.version
        if self._seen is None or self._seen[0] != version:  # a schedule by step asks every time
            groups = self._groups_of(self.model)
            amount = Amount(self.settings.unit, self.model, self.example, groups)
            widths = {group.root: group.width for group in groups}
            self._seen = version, groups, amount.at(widths)
        return self._seen

    def _groups_of(self, model: nn.Module) -> list[ChannelGroup]:
        graph = Graph(model, self.example, self.protected)
        return [group for group in graph.groups() if group.root in self._roots]

    def _layers(self) -> Iterator[tuple[str, nn.Module]]:
        kinds = nn.modules.conv._ConvNd | nn.Linear
        yield from (
            (n, layer) for n, layer in self.model.named_modules() if isinstance(layer, kinds)
        )
