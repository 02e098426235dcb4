"""How does a cycle take channels out of a network, as refine/pruning/cut.py does weights?"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from refine.batches import Batch
from refine.channels.cost import Amount, missed
from refine.channels.criteria import NEED_GRADIENTS
from refine.channels.groups import OF_THE_NETWORK, ChannelGroup, Graph, check_bare
from refine.channels.plan import Plan, Structured, plan
from refine.channels.verify import usable_groups
from refine.evaluation.cost import macs
from refine.evaluation.traceless import score
from refine.pruning.gradients import mean_gradients
from refine.pruning.method import Measure, downscale_, largest
from refine.sparsity.copies import copy_of
from refine.sparsity.optimizers import OptimizerWatch
from refine.sparsity.ranking import survivors
from refine.sparsity.shrink import Follower, reshape_, smaller_

log = logging.getLogger("refine")
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


class ChannelCut:
    """Takes channels out of ``model`` as ``settings`` say; each cut is planned anew.

    watch: that of the model. followers: parts that become smaller with the network.
    """

    takes_channels = True

    def __init__(
        self,
        model: nn.Module,
        settings: Structured,
        watch: OptimizerWatch,
        followers: Mapping[str, Follower] | None = None,
    ):
        self.model, self.settings, self.number = model, settings, 0
        self.scoring_batches = settings.scoring_batches
        self._watch, self._followers = watch, {} if followers is None else followers
        self._only = None if settings.prunable is None else set(watch.masks)
        self.kept: dict[str, str] = {}  # layers that keep their channels, and why
        self._example: Tensor | None = None
        self._roots: set[str] = set()  # of the groups that can be made narrower
        self._seen: tuple[int, list[ChannelGroup], int] | None = None  # version, groups, surviving
        if watch.masks.attached:
            raise ValueError("the channels of this model are masked already")
        check_bare(model)
        settings.named(model)
        if settings.example is not None:
            self.look(settings.example)

    @property
    def known(self) -> bool:
        """Whether an example has been looked at."""
        return self._example is not None

    def look(self, example: Tensor) -> None:
        """Finds, once, which channels depend on each other, from inputs (N, ...) of the network."""
        if self.known:
            return
        if not example.is_floating_point():
            raise ValueError("channels are found from floating-point inputs, such as images")
        self._example = example[:2].detach().clone()
        groups, self.kept = usable_groups(self.model, self.example, self.protected)
        for name, reason in self.kept.items():
            level = logging.DEBUG if reason == OF_THE_NETWORK else logging.INFO
            log.log(level, "%s keeps its channels: %s", name or "the network", reason)
        if not groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.kept.items())
            self._example = None
            raise ValueError(f"there is no channel that can be taken out ({reasons:.300})")
        self._roots = {group.root for group in groups}
        first = copy_of(self.model)
        reshape_(first, self._watch.at_first)
        groups = self._groups_of(first)
        # Of the first network: widths of the groups, by root, and the amount of the unit.
        self.initial = {group.root: group.width for group in groups}
        self._full = Amount(self.settings.unit, first, self.example, groups).at(self.initial)
        self.dense_macs = macs(first, self.example.shape[1:])

    @property
    def example(self) -> Tensor:
        """Example inputs, on the network's device and in its precision."""
        if self._example is None:
            raise ValueError("no example of the inputs has been looked at yet")
        return self._example.to(next(self.model.parameters()))

    @property
    def protected(self) -> list[str]:
        """Layers whose outputs stay, by name."""
        stay = self.settings.named(self.model)
        if self._only is not None:
            layers = {n: m for n, m in self.model.named_modules() if isinstance(m, LAYERS)}
            weights = {name: f"{name}.weight".removeprefix(".") for name in layers}
            stay += [name for name, weight in weights.items() if weight not in self._only]
        return stay

    @property
    def groups(self) -> list[ChannelGroup]:
        """The groups as they are now."""
        return self._now()[1]

    @property
    def widths(self) -> dict[str, int]:
        """Channels of each group now, by its root."""
        return {group.root: group.width for group in self.groups}

    @property
    def prunable(self) -> int:
        """How much there was at first of what ``settings.unit`` counts."""
        return self._full if self.known else self.surviving  # which raises the ValueError

    @property
    def surviving(self) -> int:
        """How much there is now of what ``settings.unit`` counts."""
        return self._now()[2]

    def prepare(self, batches: Iterable[Batch], number: int) -> None:
        """Cycle ``number``, counted from 0, begins; its first batch becomes the example if there is
        none yet."""
        self.number = number
        if not self.known:
            first = next(iter(batches), None)
            if first is None:
                raise ValueError("structured needs example inputs, or a loader with a batch")
            self.look(first[0])

    def scores(self, batches: Iterable[Batch], loss: Callable[..., Tensor]) -> dict[str, Tensor]:
        """The gradients of the weights, where the criterion reads them."""
        if self.settings.criterion not in NEED_GRADIENTS:
            return {}
        return score(mean_gradients, self.model, batches, loss)

    def choose(self, scores: Mapping[str, Tensor], ratio: float) -> Plan | None:
        """What a cut of ``ratio`` takes. ValueError where a goal in MACs or parameters is missed
        with every layer at its floor."""
        if ratio <= 0:
            return None
        surviving = self.surviving
        goal = surviving - (math.floor(ratio * (surviving - 1)) + 1)

        def planned(model: nn.Module, batches: Any) -> Plan:
            return self._plan(goal, scores)

        found = score(planned, self.model, (), number=self.number)
        for root, reason in found.left.items():
            log.warning("%s keeps its channels: %s", root or "the network", reason)
        if found.amount > goal and self.settings.unit != "channels":
            raise ValueError(self.missed(found.amount, goal))
        if found.amount > goal:
            log.warning(
                "%d of %d channels are left instead of %d: the other layers are at the "
                "floor that round_to, min_channels and min_density set",
                found.amount, surviving, goal,
            )  # fmt: skip
        if found.amount == surviving:
            log.warning("this cut took nothing out")
        return found

    def missed(self, amount: int, goal: int) -> str:
        """A message that says how far a cut has got."""
        return missed(self.settings.unit, self.prunable, amount, goal)

    def furthest(self) -> int:
        """How much would be left if every layer were cut to its floor."""
        criterion = self.settings.criterion

        def last(group: Any) -> Tensor | None:
            if criterion not in NEED_GRADIENTS and criterion(group) is None:
                return None
            return torch.arange(len(group[0].idxs))

        settings = replace(self.settings, criterion=last, steps=1)
        return score(lambda *_: self._plan(0, {}, settings), self.model, ()).amount

    def _plan(
        self, goal: int, scores: Mapping[str, Tensor], settings: Structured | None = None
    ) -> Plan:
        chosen, initial = settings or self.settings, self.initial
        return plan(
            self.model, self.example, self.groups, chosen, initial, goal, scores, self.protected
        )

    def downscale_(self) -> None:
        """Multiplies the prunable weights by the factor."""
        downscale_(self._watch.masks.weights().values(), self.settings.downscale_factor)

    def cut_(self, choice: Plan | None) -> dict[str, int]:
        """Takes the planned channels out of the network and its followers; how many weights of each
        prunable tensor."""
        if choice is None:
            return {}
        masks = self._watch.masks
        before = {name: survivors(mask) for name, mask in masks.items()}
        self._watch.fit_(smaller_(self.model, choice.smaller))
        masks.shrink_(choice.smaller)
        for follower in self._followers.values():
            follower.shrunk_(self.model, choice.smaller)
        gone = {name: count - survivors(masks[name]) for name, count in before.items()}
        return {name: count for name, count in gone.items() if count}

    def within(
        self,
        floor: float,
        validate: Measure | None,
        scores: dict[str, Tensor],
        ratio: float,
        choice: Plan | None,
    ) -> tuple[float, Plan | None]:
        """The largest cut up to ``ratio``, which takes ``choice``, after which ``validate`` still
        gives ``floor`` on a copy, and what it takes."""
        if validate is None:
            raise ValueError("a floor needs validate, which measures accuracy on validation data")

        def passes(tried: Plan | None) -> bool:
            copy = copy_of(self.model)
            weights = [copy.get_parameter(name) for name in self._watch.masks]
            downscale_(weights, self.settings.downscale_factor)
            if tried is not None:
                smaller_(copy, tried.smaller)
            return validate(copy) >= floor

        return largest(ratio, choice, lambda lower: self.choose(scores, lower), passes, None)

    def left(self) -> dict[str, int]:
        """The present number of channels, and of multiply-accumulates for one input."""
        left = macs(self.model, self.example.shape[1:])
        return {"channels": sum(self.widths.values()), "macs": left}

    def _now(self) -> tuple[int, list[ChannelGroup], int]:
        version = self._watch.version
        if self._seen is None or self._seen[0] != version:  # a schedule by step asks at every step
            groups = self._groups_of(self.model)
            amount = Amount(self.settings.unit, self.model, self.example, groups)
            widths = {group.root: group.width for group in groups}
            self._seen = version, groups, amount.at(widths)
        return self._seen

    def _groups_of(self, model: nn.Module) -> list[ChannelGroup]:
        graph = Graph(model, self.example, self.protected)
        return [group for group in graph.groups() if group.root in self._roots]
