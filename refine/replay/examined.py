"""What does the network, as it is now, predict for a batch?"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from refine.batches import Inputs
from refine.evaluation.features import with_features
from refine.objective import LossFunction, Objective, outputs, predictions


class Examined:
    """What a network that is in evaluation mode, without gradients, makes of a batch. Nothing is
    computed before it is asked for, and the plain forward pass only once.

    loss: as in refine/objective.py. Dropout draws from ``generator``.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        targets: Tensor,
        generator: torch.Generator,
        loss: LossFunction | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.targets = targets
        self._model, self._inputs, self._generator = model, inputs, generator
        self._loss, self._autocast = Objective(loss), autocast
        self._made: Any = None

    def losses(self) -> Tensor:
        """The loss of each example: (N,). ValueError if the loss gives more or fewer numbers."""
        with self._autocast():
            return self._loss(self._outputs(), self.targets, reduction="none").float()

    def logits(self) -> Tensor:
        """(N, classes) or, for dense predictions, (N, classes, ...). ValueError if there are fewer
        than two classes."""
        return _logits(self._outputs())

    def features(self) -> Tensor:
        """The inputs of the linear layer that is called last: (N, features). ValueError if none is
        called. To be asked for first, as the same pass then also gives the outputs."""
        with self._autocast():
            self._made, features = with_features(self._model, self._inputs)
        if len(features) != len(self.targets):
            raise ValueError("the last linear layer has not one input for each image")
        return features.float()

    def under_dropout(self, times: int) -> Tensor:
        """Logits of passes in which dropout, but nothing else, works as in training: (times, N,
        classes). ValueError if the network has no dropout."""
        dropping = [
            module
            for module in self._model.modules()
            if isinstance(module, _DropoutNd) and module.p > 0
        ]
        if not dropping:
            raise ValueError("selection=disagreement needs a network with dropout")
        with _seeded(self.targets.device, self._generator):
            for module in dropping:
                module.training = True
            try:
                return torch.stack([_logits(self._pass()) for _ in range(times)])
            finally:
                for module in dropping:
                    module.training = False

    def _outputs(self) -> Any:
        if self._made is None:
            self._made = self._pass()
        return self._made

    def _pass(self) -> Any:
        with self._autocast():
            return outputs(self._model, self._inputs)


def _logits(made: Any) -> Tensor:
    logits = predictions(made)
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise ValueError("this replay priority compares classes, and the network tells none apart")
    return logits.float()


@contextmanager
def _seeded(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """torch's own generators of the CPU and ``device`` are seeded from ``generator`` and afterwards
    as they were before: dropout can use no others."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)  # manual_seed would seed every GPU
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
