"""How does a cycle take channels out of a network?

What refine/pruning/cut.py is for weights, this is for channels.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from math import floor as whole
from typing import Any

import torch
from torch import Tensor, nn

from refine.evaluation.cost import macs
from refine.pruning.channel_amount import Amount
from refine.pruning.channel_groups import OF_THE_NETWORK, ChannelGroup, Graph, check_bare
from refine.pruning.criteria import NEED_GRADIENTS
from refine.pruning.cut import BISECTIONS, downscale_
from refine.pruning.gradients import mean_gradients
from refine.pruning.score import score
from refine.pruning.structured import Plan, Structured, plan
from refine.pruning.verified import misfits
from refine.shrinking import smaller_

log = logging.getLogger("refine")


class ChannelCut:
    """Plans cuts of ``model``'s channels as ``settings`` say, from its present state.

    example: inputs like those of the network; what it had at first is known from when this was
    made, or from the first ``look`` with an example. prunable: the weights that are multiplied by
    ``downscale_factor`` before a cut. A plan changes nothing. ``number``: of the cycle, from 0.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Structured,
        example: Tensor | None = None,
        prunable: Iterable[str] = (),
        downscale_factor: float = 1.0,
    ):
        self.model, self.settings, self.number = model, settings, 0
        self.prunable, self.downscale_factor = tuple(prunable), downscale_factor
        self.initial: dict[str, int] = {}  # widths of the groups, by root
        self.full = 0  # of the unit, at first
        self.dense_macs = 0  # for one input, at first
        self.left: dict[str, str] = {}
        self._example: Tensor | None = None
        self._now: list[ChannelGroup] | None = None
        self._surviving: int | None = None
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
        self._example = example[:2].detach().clone()
        groups = self._fitting()
        if not groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left.items())
            raise ValueError(f"there is no channel that can be taken out ({reasons:.300})")
        if not self.initial:
            self.initial = {group.root: group.width for group in groups}
            self.full = self._amount(groups).at(self.initial)
            self.dense_macs = macs(self.model, self._example.shape[1:])

    def changed(self) -> None:
        """To be called when the network has become another."""
        self._now = self._surviving = None

    @property
    def groups(self) -> list[ChannelGroup]:
        """The groups as they are now."""
        if not self.known:
            raise ValueError("no example of the inputs has been looked at yet")
        if self._now is None:
            graph = Graph(self.model, self._example, self.settings.named(self.model))
            self._now = [group for group in graph.groups() if group.root in self.initial]
        return self._now

    @property
    def widths(self) -> dict[str, int]:
        """Channels of each group now, by its root."""
        return {group.root: group.width for group in self.groups}

    @property
    def surviving(self) -> int:
        """How much there is now of what ``settings.unit`` counts."""
        if self._surviving is None:  # a schedule by step asks after every one
            self._surviving = self._amount(self.groups).at(self.widths)
        return self._surviving

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
        groups, surviving = self.groups, self.surviving
        goal = surviving - (whole(ratio * (surviving - 1)) + 1)

        def planned(model: nn.Module, batches: Any) -> Plan:
            return plan(model, self._example, groups, self.settings, self.initial, goal, gradients)

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
            "every layer at the floor that min_channels, min_density, round_to and protected "
            "layers leave"
        )

    def furthest(self) -> int:
        """How much would be left with every layer at its floor."""
        groups = self.groups

        def last(group: Any) -> Tensor:
            return torch.arange(len(group[0].idxs))

        settings = Structured(**{**vars(self.settings), "criterion": last, "steps": 1})
        return plan(self.model, self._example, groups, settings, self.initial, 0).amount

    def downscale_(self) -> None:
        """Multiplies the prunable weights by the factor."""
        weights = dict(self.model.named_parameters())
        downscale_([weights[name] for name in self.prunable], self.downscale_factor)

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
            downscale_([weights[name] for name in self.prunable], self.downscale_factor)
            smaller_(copy, tried.smaller)
            return validate(copy) >= floor

        if passes(chosen):
            return ratio, chosen
        low, high, best = 0.0, ratio, None
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            chosen = self.choose(gradients, middle)
            if passes(chosen):
                low, best = middle, chosen
            else:
                high = middle
        return low, best

    def left_now(self) -> dict[str, int]:
        """Channels and multiply-accumulates of one input that are there now."""
        return {
            "channels": sum(self.widths.values()),
            "macs": macs(self.model, self._example.shape[1:]),
        }

    def state_dict(self) -> dict[str, Any]:
        """What it had at first."""
        return {"initial": dict(self.initial), "full": self.full, "dense_macs": self.dense_macs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of a network that was cut since."""
        self.initial, self.full = dict(state["initial"]), state["full"]
        self.dense_macs = state["dense_macs"]

    def _amount(self, groups: list[ChannelGroup]) -> Amount:
        return Amount(self.settings.unit, self.model, self._example, groups)

    def _fitting(self) -> list[ChannelGroup]:
        graph = Graph(self.model, self._example, self.settings.named(self.model))
        groups = graph.groups()
        misfit = misfits(self.model, self._example, groups)
        self.left = graph.left | misfit
        for name, reason in self.left.items():
            level = logging.DEBUG if reason == OF_THE_NETWORK else logging.INFO
            log.log(level, "%s keeps its channels: %s", name or "the network", reason)
        return [group for group in groups if group.root not in misfit]
