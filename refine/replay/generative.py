"""What does a cycle train on where no example may be kept?"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.batches import Batch
from refine.replay.batch import Replayed
from refine.replay.vae import VAE
from refine.rng import stream


@dataclass
class Generative:
    """Trains on examples that a small network makes (deep generative replay, Shin et al. 2017,
    arXiv:1705.08690).

    In every cycle the network learns ``training_steps`` more steps from the data. What is kept of
    the data are the network's weights and how often each of the ``classes`` was seen. All random
    numbers come from a generator of its own. ``hidden`` and ``latent`` are widths; inputs are
    normalised floats of any shape, targets class numbers.
    """

    steps: int
    batch_size: int
    classes: int
    hidden: int = 256
    latent: int = 32
    training_steps: int = 300
    learning_rate: float = 1e-3
    seed: int = 0
    generator: torch.Generator = field(init=False, repr=False)
    examples = 0  # not annotated: no setting
    _shape: list[int] = field(init=False, repr=False, default_factory=list)  # of an input
    _network: VAE | None = field(init=False, repr=False, default=None)
    _before: VAE | None = field(init=False, repr=False, default=None)  # as this task began
    _closed: list[Tensor] = field(init=False, repr=False, default_factory=list)  # counts, per task
    _seen: Tensor | None = field(init=False, repr=False, default=None)  # counts of this task

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.training_steps < 1:
            raise ValueError("a replay needs steps from 0, batch_size and training_steps from 1 on")
        self.generator = torch.Generator().manual_seed(stream(self.seed, "generative"))

    @property
    def bytes(self) -> int:
        """How much memory the weights take, and the copy of them from when the task began."""
        networks = [network for network in (self._network, self._before) if network]
        return sum(weight.nbytes for network in networks for weight in network.parameters())

    def batches(self, model: nn.Module, data: Iterable[Batch]) -> Iterator[Replayed]:
        """Trains the network on ``data`` and yields ``steps`` batches that it makes: all tasks are
        equally likely, and a task's classes as likely as they were seen."""
        if not self.steps:
            return
        network, seen = self._trained(data)
        for _ in range(self.steps):
            flat, numbers = self._made(network, [*self._closed, seen], self.batch_size)
            yield Replayed(flat.view(-1, *self._shape), numbers)

    def keep(self, model: nn.Module, data: Iterable[Batch]) -> None:
        """Only trains the network. Nothing if there are no steps. ValueError if there is no batch,
        or the network's loss is not finite."""
        if self.steps:
            self._trained(data)

    def begin_task(self) -> None:
        """Data of another task follows: from now on the network also learns from examples of the
        tasks so far, which a copy of it as it is now makes."""
        if self._seen is not None:
            self._closed.append(self._seen)
            self._seen, self._before = None, deepcopy(self._network)

    def state_dict(self) -> dict[str, Any]:
        """The weights, the counts and the generator, as tensors and numbers."""
        return {
            "generator": self.generator.get_state(),
            "shape": list(self._shape),
            "closed": [counts.clone() for counts in self._closed],
            "seen": [] if self._seen is None else [self._seen.clone()],
            "network": _weights(self._network),
            "before": _weights(self._before),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings it to a ``state_dict``; weights go to the data's device when it comes."""
        self._shape = list(state["shape"])
        self._network = self._with(state["network"])
        self._before = self._with(state["before"])
        self._closed = [counts.cpu() for counts in state["closed"]]
        self._seen = state["seen"][0].cpu() if state["seen"] else None
        self.generator.set_state(state["generator"].cpu())

    def _trained(self, data: Iterable[Batch]) -> tuple[VAE, Tensor]:
        """The network after training on ``data``, and how often each class was seen in it."""
        batches = self._passes(data)
        first = next(batches)
        network = self._on(first[0])
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        seen = torch.zeros(self.classes, dtype=torch.int64, device=first[1].device)
        for inputs, targets in chain([first], batches):
            seen = seen + F.one_hot(targets.long(), self.classes).sum(0)
            with torch.enable_grad():
                loss = self._loss(network, inputs.flatten(1).float(), targets)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        if not loss.isfinite():
            raise ValueError("a generative replay's loss is not finite; are the inputs normalised?")
        optimizer.zero_grad()
        self._seen = seen.cpu().double()
        return network, self._seen

    def _passes(self, data: Iterable[Batch]) -> Iterator[Batch]:
        left = self.training_steps
        while left:
            before = left
            for batch in data:
                left -= 1
                yield batch
                if not left:
                    return
            if left == before:
                raise ValueError("replay needs data, and the loader yielded no batch")

    def _on(self, inputs: Tensor) -> VAE:
        """The network, on the inputs' device; a new one at first."""
        if self._network is None:
            self._shape = list(inputs.shape[1:])
            self._network = self._fresh(self.generator)
        if self._before is not None:
            self._before.to(inputs.device)
        return self._network.to(inputs.device)

    def _fresh(self, generator: torch.Generator) -> VAE:
        return VAE(prod(self._shape), self.classes, self.hidden, self.latent, generator)

    def _with(self, weights: dict[str, Tensor]) -> VAE | None:
        if not weights:
            return None
        network = self._fresh(torch.Generator())
        network.load_state_dict(weights)
        return network

    def _loss(self, network: VAE, flat: Tensor, numbers: Tensor) -> Tensor:
        """The loss of a batch and, if there are closed tasks, of as many examples that are made of
        these; every task weighs the same."""
        count, tasks = len(flat), len(self._closed) + 1
        weights = torch.full((count,), 1 / (tasks * count), device=flat.device)
        if self._before is not None:
            made, classes = self._made(self._before, self._closed, count)
            flat, numbers = torch.cat([flat, made]), torch.cat([numbers, classes])
            weights = torch.cat([weights, (tasks - 1) * weights])
        return network.loss(flat, numbers, self._noise(len(flat), flat.device), weights)

    @torch.no_grad()
    def _made(self, network: VAE, tasks: list[Tensor], count: int) -> Batch:
        shares = torch.stack([counts / counts.sum() for counts in tasks]).mean(0)
        numbers = torch.multinomial(shares, count, replacement=True, generator=self.generator)
        device = next(network.parameters()).device
        numbers = numbers.to(device)
        return network.make(numbers, self._noise(count, device)), numbers

    def _noise(self, count: int, device: torch.device) -> Tensor:
        return torch.randn(count, self.latent, generator=self.generator).to(device)


def _weights(network: VAE | None) -> dict[str, Tensor]:
    if network is None:
        return {}
    return {name: weight.clone() for name, weight in network.state_dict().items()}
