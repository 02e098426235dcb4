"""Which channels does a cut take out of a network?

Those of the lowest scores, in small steps; after each, the remaining channels are scored again
(progressive pruning, Fang et al. 2023). Unlike torch-pruning's own pruners, a missed goal is
reported, floors hold, and no group is skipped silently.
"""

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from refine.channels.cost import UNITS, Amount
from refine.channels.criteria import magnitude
from refine.channels.groups import ChannelGroup, Graph, without
from refine.channels.progress import Progress
from refine.sparsity.copies import copy_of
from refine.sparsity.shrink import Smaller

SCOPES = ("global", "layerwise")


@dataclass(frozen=True)
class Structured:
    """How channels are chosen; they leave the network, with all that depends on them.

    criterion: a function of refine/channels/criteria.py.
    scope: one ranking over all layers ("global"), or the same share of each ("layerwise").
    unit: what a cut's ratio is a share of: "channels", "macs" or "parameters".
    protected: globs of layers whose outputs are never cut; those that compute the network's outputs
        never are.
    round_to: widths that change become multiples of it.
    min_channels, min_density: what every layer keeps, in channels and as a share of those it had at
        first.
    steps: number of steps to cut all channels; the remaining ones are scored again after each.
    downscale_factor: the prunable weights are multiplied by it before the cut.
    scoring_batches: how many batches gradients are made on, for a criterion that reads them.
    prunable: names of the parameters whose layers may lose channels; by default all.
    example: inputs (N, ...) like those of the network; by default the first that a cycle is given.
    """

    criterion: Callable[[Any], Tensor | None] = magnitude
    scope: str = "global"
    unit: str = "channels"
    protected: tuple[str, ...] = ()
    round_to: int = 1
    min_channels: int = 1
    min_density: float = 0.0
    steps: int = 100
    downscale_factor: float = 0.98
    scoring_batches: int = 8
    prunable: Collection[str] | None = None
    example: Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.criterion):
            raise TypeError(f"criterion is a function of (group), not {self.criterion!r}")
        for name in ("round_to", "min_channels", "steps"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} is a whole number, not {getattr(self, name)!r}")
        if isinstance(self.protected, str):
            object.__setattr__(self, "protected", (self.protected,))
        for name, known in (("scope", SCOPES), ("unit", UNITS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}")
        if min(self.round_to, self.min_channels, self.steps) < 1 or not 0 <= self.min_density < 1:
            raise ValueError(
                "round_to, min_channels and steps must be at least 1, min_density from 0 to below 1"
            )

    def named(self, model: nn.Module) -> list[str]:
        """The layers that ``protected`` means; ValueError for a glob that means none."""
        layers = [name for name, _ in model.named_modules() if name]
        for glob in self.protected:
            if not any(fnmatchcase(name, glob) for name in layers):
                raise ValueError(f"{glob!r} is no layer; there are {', '.join(layers)}"[:200])
        return [n for n in layers if any(fnmatchcase(n, glob) for glob in self.protected)]


@dataclass(frozen=True)
class Plan:
    """What a cut takes, of a network as it is now.

    smaller: what is left of each tensor. widths: channels of each group afterwards. amount: how
    much is left, in the given unit. left: groups that could not be cut, and why.
    """

    smaller: Smaller
    widths: Mapping[str, int]
    amount: int
    left: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage collection is off inside: torch-pruning makes a million small tuples for a flattened
    picture, and the collections that they start would take 1.5 times as long as they do."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def plan(
    model: nn.Module,
    example: Tensor,
    groups: list[ChannelGroup],
    settings: Structured,
    initial: Mapping[str, int],
    goal: int,
    gradients: Mapping[str, Tensor] | None = None,
    protected: Iterable[str] = (),
) -> Plan:
    """The smallest cut that leaves at most ``goal`` of what ``settings.unit`` counts. It leaves
    more if every layer is at its floor.

    groups: those of ``model``. initial: their widths at first, by root. gradients: of parameters,
    for criteria that need them. protected: layers that are not cut. ``model`` does not change.
    """
    amount = Amount(settings.unit, model, example, groups)
    work = copy_of(model)
    for name, parameter in work.named_parameters():
        parameter.grad = gradients[name].clone() if gradients and name in gradients else None
    graph = Graph(work, example, protected)
    kept = {group.root: torch.arange(group.width) for group in groups}
    floors = {root: _floor(settings, width, initial[root]) for root, width in amount.full.items()}
    most = ceil(sum(initial.values()) / settings.steps)
    left: dict[str, str] = {}
    progress, full = Progress("choosing channels"), amount.at(amount.full)
    while (now := amount.at(_widths(kept))) > goal:
        progress.at((full - now) / (full - goal))
        units = list(_units(graph, kept, floors, settings, initial, left))
        if not units:
            break
        keys = torch.cat([key for key, *_ in units])
        order = keys.argsort(stable=True)
        owner = torch.cat([torch.full((len(u[0]),), i) for i, u in enumerate(units)])[order]
        sizes = torch.cat([size for _, _, _, size in units])[order]

        def taken(count: int, owner=owner, sizes=sizes, units=units) -> dict[str, int]:
            totals = torch.zeros(len(units), dtype=torch.int64)
            totals.index_add_(0, owner[:count], sizes[:count])
            return {unit[1]: int(total) for unit, total in zip(units, totals, strict=True)}

        def left_by(count: int, taken: Callable[[int], dict[str, int]] = taken) -> int:
            gone = taken(count)
            return amount.at({r: len(k) - gone.get(r, 0) for r, k in kept.items()})

        count = max(1, int((sizes.cumsum(0) <= most).sum()))
        if left_by(count) <= goal:
            count = _least(count, partial(_reaches, left_by, goal))
        gone = taken(count)
        chosen = {root: order[: gone[root]].tolist() for _, root, order, _ in units if gone[root]}
        graph.prune({root: sorted(channels) for root, channels in chosen.items()})
        kept.update({root: _without(kept[root], channels) for root, channels in chosen.items()})
    widths = _widths(kept)
    lost = {
        root: sorted(set(range(amount.full[root])) - set(channels.tolist()))
        for root, channels in kept.items()
    }
    return Plan(without(model, groups, lost), widths, amount.at(widths), left)


def _units(
    graph: Graph,
    kept: Mapping[str, Tensor],
    floors: Mapping[str, int],
    settings: Structured,
    initial: Mapping[str, int],
    left: dict[str, str],
) -> Iterator[tuple[Tensor, str, Tensor, Tensor]]:
    """The units that can be cut, by group: their ascending keys, the group's root, its channels in
    the order in which they are cut, and how many of them each unit has."""
    for root, group in graph.library_groups(kept).items():
        width = len(kept[root])
        room = width - floors[root]
        if room <= 0:
            continue
        scores = settings.criterion(group)
        if scores is None:
            left[root] = "the criterion has no score for it"
            continue
        scores = scores.detach().double().cpu()
        if not scores.isfinite().all():
            if not all(bool(p.isfinite().all()) for p in graph.model.parameters()):
                raise ValueError("the weights are no longer finite, and have no rank")
            scores = scores.nan_to_num(0.0)  # of a group that is zero altogether
        ascending = scores.argsort(stable=True)
        sizes = _sizes(width, room, settings.round_to)
        if not len(sizes):
            continue
        ends = sizes.cumsum(0)
        if settings.scope == "layerwise":
            keys = (initial[root] - width + ends).double() / initial[root]
        else:
            sums = torch.cat([torch.zeros(1).double(), scores[ascending].cumsum(0)])
            keys = (sums[ends] - sums[ends - sizes]) / sizes
            keys = keys.cummax(0).values  # rounding may have broken the order
        yield keys, root, ascending, sizes


def _sizes(width: int, room: int, round_to: int) -> Tensor:
    """Sizes of the units that may be cut, in order: the first brings the width to a multiple."""
    first = width % round_to or round_to
    count = 0 if room < first else 1 + (room - first) // round_to
    sizes = torch.full((count,), round_to, dtype=torch.int64)
    sizes[:1] = first
    return sizes


def _floor(settings: Structured, width: int, initial: int) -> int:
    return min(width, max(settings.min_channels, ceil(settings.min_density * initial), 1))


def _without(kept: Tensor, positions: list[int]) -> Tensor:
    stays = torch.ones(len(kept), dtype=torch.bool)
    stays[positions] = False
    return kept[stays]


def _widths(kept: Mapping[str, Tensor]) -> dict[str, int]:
    return {root: len(channels) for root, channels in kept.items()}


def _reaches(left_by: Callable[[int], int], goal: int, count: int) -> bool:
    return left_by(count) <= goal


def _least(highest: int, enough: Callable[[int], bool]) -> int:
    """The least count up to ``highest`` that is enough; ``highest`` is."""
    low = 0
    while highest - low > 1:
        middle = (low + highest) // 2
        low, highest = (low, middle) if enough(middle) else (middle, highest)
    return highest
