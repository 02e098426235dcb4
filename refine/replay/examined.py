"""What does the network, as it is now, predict for a batch?"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from refine.evaluation.features import with_features


class Examined:
    """What a network that is in evaluation mode, without gradients, makes of a batch. Nothing is
    computed before it is asked for, and the plain forward pass only once.

    ``loss(outputs, targets, reduction="none")`` gives a number for each example; dropout draws from
    ``generator``.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        loss: Callable[..., Tensor] = F.cross_entropy,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.targets = targets
        self._model, self._inputs, self._generator = model, inputs, generator
        self._loss, self._autocast = loss, autocast
        self._made: Tensor | None = None

    def losses(self) -> Tensor:
        """The loss of each example: (N,). ValueError if the loss gives more or fewer numbers."""
        with self._autocast():
            each = self._loss(self._outputs(), self.targets, reduction="none").float()
        if each.dim() == 0 or len(each) != len(self.targets):
            raise ValueError("the loss gives no number for each image (reduction=none)")
        return each.flatten(1).mean(1) if each.dim() > 1 else each

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
        with _seeded(self._inputs.device, self._generator):
            for module in dropping:
                module.training = True
            try:
                return torch.stack([_logits(self._pass()) for _ in range(times)])
            finally:
                for module in dropping:
                    module.training = False

    def _outputs(self) -> Tensor:
        if self._made is None:
            self._made = self._pass()
        return self._made

    def _pass(self) -> Tensor:
        with self._autocast():
            return self._model(self._inputs)


def _logits(outputs: Tensor) -> Tensor:
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        raise ValueError("this replay priority compares classes, and the network tells none apart")
    return outputs.float()


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
