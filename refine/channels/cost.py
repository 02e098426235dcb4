"""How much of a network is left at given widths of its channel groups?"""

from collections.abc import Iterable, Mapping
from math import prod

from torch import Tensor, nn

from refine.channels.groups import ChannelGroup
from refine.evaluation.cost import macs, macs_by_layer

UNITS = ("channels", "macs", "parameters")


class Amount:
    """The number of channels, of parameters, or of multiply-accumulates for one input like
    ``example`` (as refine/evaluation/cost.py counts them), as a function of the groups' widths.

    A layer's multiply-accumulates are its weights times the number of places where they are used,
    which does not depend on widths. Nor do matrix products outside of layers, as in attention.
    """

    def __init__(
        self, unit: str, model: nn.Module, example: Tensor, groups: Iterable[ChannelGroup]
    ):
        if unit not in UNITS:
            raise ValueError(f"the unit is one of {', '.join(UNITS)}, not {unit!r}")
        self.unit, self.full = unit, {group.root: group.width for group in groups}
        sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._uses, self._fixed = dict.fromkeys(sizes, 1.0), 0
        if unit == "macs":
            counts = macs_by_layer(model, example.shape[1:])
            self._fixed = macs(model, example.shape[1:]) - sum(counts.values())
            weights = {f"{layer}.weight" if layer else "weight": n for layer, n in counts.items()}
            # Weights that two layers share belong to no group and stay as they are.
            self._fixed += sum(count for name, count in weights.items() if name not in sizes)
            self._uses = {
                name: count / prod(sizes[name]) for name, count in weights.items() if name in sizes
            }
        # By tensor: a dimension, a group's root, and how many indices belong to each channel.
        self._sizes = {name: list(sizes[name]) for name in self._uses}
        self._shares: dict[str, list[tuple[int, str, float]]] = {}
        for group in groups:
            for member in group.members:
                if member.tensor in self._sizes:
                    each = len(member.indices) / group.width
                    share = (member.dimension, group.root, each)
                    self._shares.setdefault(member.tensor, []).append(share)

    def at(self, widths: Mapping[str, int]) -> int:
        """How much is left at these widths, by root."""
        if self.unit == "channels":
            return sum(widths.values())
        total = float(self._fixed)
        for name, uses in self._uses.items():
            sizes = list(self._sizes[name])
            for dimension, root, each in self._shares.get(name, ()):
                sizes[dimension] -= round(each * (self.full[root] - widths[root]))
            total += uses * prod(sizes)
        return round(total)


def missed(unit: str, full: int, amount: int, goal: int) -> str:
    """In words, that a cut of ``full`` of a unit left ``amount`` where ``goal`` was asked for."""
    name = {"macs": "MACs"}.get(unit, unit)
    return (
        f"{full / goal:.2f}x fewer {name} than at first were asked for, and "
        f"{full / amount:.2f}x is as far as it goes ({amount:,} of {full:,}), with "
        "every layer at the floor that min_channels, min_density and round_to leave, but for "
        "those that are protected or that the criterion has no score for"
    )
