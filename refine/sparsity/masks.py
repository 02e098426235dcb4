"""Which weights live?"""

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from refine.sparsity.hold import Hold
from refine.sparsity.layers import by_output, named, none_to_prune, prunable_names
from refine.sparsity.parametrized import sparing
from refine.sparsity.places import Places
from refine.sparsity.ranking import lowest, survivors
from refine.sparsity.shrink import Smaller


class Masks(Mapping[str, Tensor]):
    """A boolean tensor for each prunable weight tensor of a model: True where a weight lives.

    Invariant: ``zero_cut_()`` leaves every cut weight at exactly 0.0. Counts are exact integers.
    The model may move, change its precision, or replace its parameters; it is held weakly.
    ValueError if a name in ``prunable`` is no parameter, or the model has nothing to prune.
    """

    def __init__(self, model: nn.Module, prunable: Iterable[str] | None = None):
        parameters = dict(model.named_parameters())
        names = prunable_names(model) if prunable is None else named(model, prunable)
        if not names:
            raise ValueError(none_to_prune(model))
        self.places = Places()
        for name in names:
            self.places.find_(model, name)
        self._alive = {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in names}
        self.prunable = sum(mask.numel() for mask in self._alive.values())  # at first
        self._attached: dict[str, str] = {}  # parameter of output channels: the layer's tensor
        self._channels: dict[str, Tensor] = {}  # masks of attached ones with cut elements
        self._holds: dict[str, Hold] = {}  # by tensors with cut weights

    def __getitem__(self, name: str) -> Tensor:
        return self._alive[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._alive)

    def __len__(self) -> int:
        return len(self._alive)

    def weights(self) -> dict[str, nn.Parameter]:
        """The prunable parameters, by name, as the model has them now."""
        found = {name: self.places.parameter(name) for name in self._alive}
        return {name: weight for name, weight in found.items() if weight is not None}

    @property
    def surviving(self) -> int:
        """How many of the prunable weights live."""
        return sum(survivors(mask) for mask in self._alive.values())

    @property
    def masked(self) -> int:
        """How many prunable weights of the present network are held at 0."""
        return sum(mask.numel() - survivors(mask) for mask in self._alive.values())

    @property
    def attached_cut(self) -> int:
        """How many elements of attached parameters are held at 0."""
        return sum(mask.numel() - survivors(mask) for mask in self._channels.values())

    @property
    def attached(self) -> Mapping[str, str]:
        """The parameters that are cut with output channels, each with the channels' tensor."""
        return self._attached

    def lives(self, name: str) -> Tensor:
        """True where an element of an attached parameter is not held at 0."""
        parameter = self._parameter(name)
        ones = torch.ones_like(parameter, dtype=torch.bool)
        return self._channels[name].to(parameter.device) if name in self._channels else ones

    def going_with(self, marked: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, nn.Parameter]]:
        """The attached parameters that lose elements with the ``marked`` weights, and which."""
        found = {}
        for parameter, name in self._attached.items():
            if name in marked:
                left = self._alive[name] & ~marked[name].to(self._alive[name].device)
                stays = by_output(self.places.layer(name), left).any(1)
                going = self.lives(parameter).to(stays.device) & ~stays
                if going.any():
                    found[parameter] = going, self._parameter(parameter)
        return found

    def attach(self, model: nn.Module, name: str, parameters: Iterable[str]) -> None:
        """From now on ``parameters`` (a bias, a norm's weight and bias) are cut with the output
        channels of the tensor ``name``: an element is held at 0.0 when the last weight of its
        channel is cut. They count neither as prunable nor as surviving. ValueError unless each has
        an element for every output channel.
        """
        known = dict(model.named_parameters())
        channels = len(by_output(self.places.layer(name), self._alive[name]))
        for parameter in parameters:
            if parameter not in known or known[parameter].shape != (channels,):
                raise ValueError(f"{parameter} has no element for each of {channels} of {name}")
            if parameter in self._alive or self._attached.get(parameter, name) != name:
                raise ValueError(f"{parameter} cannot be attached to {name}: it is masked already")
            self.places.find_(model, parameter)
            self._attached[parameter] = name
        self._cut_channels({name})
        self.zero_cut_()

    def lowest(self, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
        """Marks ``counts[name]`` survivors of each tensor, lowest score first, equal scores in the
        order of their index. ValueError where a score is NaN, its tensor has another shape than
        the weights, or a count exceeds the survivors."""
        marked = {}
        for name, count in counts.items():
            if name not in self._alive or scores[name].shape != self._alive[name].shape:
                raise ValueError(f"the scores and counts do not fit the prunable tensor {name}")
            if count:
                self._alive[name] = self._alive[name].to(scores[name].device)
                alive = self._alive[name]
                values, most = sparing(self.places.layer(name), name, scores[name], alive)
                marked[name] = lowest(values, alive, count if most is None else min(count, most))
        return marked

    def cut_(self, marked: Mapping[str, Tensor]) -> None:
        """Cuts the ``marked`` weights."""
        weights = self.weights()
        for name, going in marked.items():
            self._alive[name] = self._alive[name] & ~going
            self._holds[name] = self._hold(name, weights[name])
        self._cut_channels(marked)
        self.zero_cut_()

    @torch.no_grad()
    def grow_(self, marked: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        """Lets the ``marked`` weights live again, each with its value of ``values[name]``, a tensor
        of one dimension in the order of the index. ValueError if one lives already, or there is
        not a value for each; then all stay as they are.

        Elements of attached parameters can be marked too; they get their values if their channel
        lives again. Their optimizer state is 0, as it was held there while they were cut.
        """
        weights = self.weights()
        along = {name: coming for name, coming in marked.items() if name in self._attached}
        marked = {name: coming for name, coming in marked.items() if name not in along}
        for name, coming in marked.items():
            alive = self._alive[name] = self._alive[name].to(weights[name].device)
            if bool((alive & coming).any()) or len(values[name]) != int(coming.sum()):
                raise ValueError(f"what is to grow does not fit the cut weights of {name}")
        for name, coming in marked.items():
            self._alive[name] = self._alive[name] | coming
            weights[name][coming] = values[name].to(weights[name])
            if bool(self._alive[name].all()):
                self._holds.pop(name, None)
            else:
                self._holds[name] = self._hold(name, weights[name])
        dead = {name: ~self.lives(name) for name in along}
        self._cut_channels(marked)
        for name, coming in along.items():
            back = coming.to(dead[name].device) & dead[name] & self.lives(name)
            parameter = self._parameter(name)
            own = torch.zeros_like(parameter)
            own[coming.to(own.device)] = values[name].to(own)
            parameter[back] = own[back]

    def load_(self, alive: Mapping[str, Tensor]) -> None:
        """Makes exactly those weights live that ``alive`` marks. Their values do not change."""
        for name, mask in self._alive.items():
            self._alive[name] = alive[name].to(mask.device)
        self._holds.clear()
        self._channels.clear()
        self.cut_({name: ~mask for name, mask in self._alive.items() if not mask.all()})

    def shrink_(self, smaller: Smaller) -> None:
        """To be called when the network has become ``smaller``: what is left keeps its mask."""
        for masks in (self._alive, self._channels):
            for name, mask in masks.items():
                masks[name] = smaller.of(name, mask)
        for name in list(self._holds):
            self._holds[name] = self._hold(name, self._parameter(name))

    def reset_(self) -> None:
        """Lets all weights live; their tensors may have other shapes than before."""
        self._holds.clear()
        self._channels.clear()
        for name, weight in self.weights().items():
            self._alive[name] = torch.ones_like(weight, dtype=torch.bool)

    @torch.no_grad()
    def zero_cut_(self, among: Collection[int] | None = None) -> None:
        """Sets every cut weight to exactly 0.0, in place; ``among`` restricts it to the
        parameters with these ids."""
        for weight, hold in self._with_cuts(among):
            hold.hold_(weight)

    @torch.no_grad()
    def zero_cut_gradients_(self, among: Collection[int] | None = None) -> None:
        """Sets the gradient of every cut weight to exactly 0.0, in place."""
        for weight, hold in self._with_cuts(among):
            gradient = weight.grad
            if gradient is not None and not gradient.is_sparse:
                hold.clear_(gradient)

    @torch.no_grad()
    def zero_moments_(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets the state of ``optimizer`` for every cut weight (momentum, Adam's moments) to 0."""
        for name in self._holds:
            mask = (self._alive | self._channels)[name]
            weight = self.places.parameter(name)
            for moment in optimizer.state.get(weight, {}).values() if weight is not None else ():
                if isinstance(moment, Tensor) and moment.shape == mask.shape:
                    moment.masked_fill_(~mask.to(moment.device), 0.0)

    def _with_cuts(self, among: Collection[int] | None) -> Iterator[tuple[nn.Parameter, Hold]]:
        for name, hold in self._holds.items():
            weight = self.places.parameter(name)
            if weight is None or (among is not None and id(weight) not in among):
                continue
            if weight.shape != hold.free.shape:  # it was replaced; see structure.py
                continue
            if not hold.fits(weight):  # the model has moved or changed its precision since
                self._holds[name] = hold = self._hold(name, weight)
            yield weight, hold

    def _hold(self, name: str, weight: Tensor) -> Hold:
        home = self._alive if name in self._alive else self._channels
        home[name] = home[name].to(weight.device)
        return Hold.of(weight, home[name])

    def _cut_channels(self, names: Collection[str]) -> None:
        for parameter, name in self._attached.items():
            if name in names:
                alive = by_output(self.places.layer(name), self._alive[name]).any(1)
                if alive.all():
                    self._channels.pop(parameter, None)
                    self._holds.pop(parameter, None)
                else:
                    self._channels[parameter] = alive
                    self._holds[parameter] = self._hold(parameter, self._parameter(parameter))

    def _parameter(self, name: str) -> nn.Parameter:
        parameter = self.places.parameter(name)
        if parameter is None:
            raise RuntimeError(f"{name} is no longer in the model")
        return parameter
