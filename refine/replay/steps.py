"""How is a network trained on what is replayed?"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from refine import parallel
from refine.batches import Batch
from refine.distillation import Distillation
from refine.evaluation.traceless import in_mode
from refine.objective import Objective
from refine.replay.batch import Replayed
from refine.sparsity.closures import needs_closure
from refine.sparsity.optimizers import OptimizerWatch

WholeStep = Callable[[Replayed], Tensor]


class ReplaySteps:
    """Takes the steps of a replay.

    optimizer: takes them, on ``loss`` with what ``distillation`` makes of it; or a function
        ``(batch) -> loss`` that is one whole step itself. By default the optimizers that trained
        the model so far, at their present rates; Adam at 0.001 where none has stepped yet.
    """

    def __init__(
        self,
        model: nn.Module,
        watch: OptimizerWatch,
        loss: Objective,
        optimizer: Optimizer | WholeStep | None,
        distillation: Distillation,
    ):
        self.model, self.loss, self.distillation = model, loss, distillation
        self._watch = watch
        self._optimizer = optimizer if isinstance(optimizer, Optimizer) else None
        self._step: WholeStep = self._own_step
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            self._step = optimizer
        self._first: Optimizer | None = None

    def on(self, batches: Iterable[Batch | Replayed]) -> list[Tensor]:
        """Trains on every batch; their losses. Gradients that were there before, such as those that
        somebody is accumulating, are there again afterwards."""
        losses = []
        aside = self._gradients_aside if self._step == self._own_step else nullcontext
        self.distillation.begin_replay()
        try:
            with torch.enable_grad(), aside():
                for batch in parallel.together(batches):
                    with in_mode(self.model, training=True):
                        losses.append(self._step(Replayed(*batch)).detach())
        finally:
            self.distillation.end_replay()
        return losses

    def optimizers(self) -> list[Optimizer]:
        """What takes the steps."""
        if self._optimizer is not None:
            return [self._optimizer]
        if not self._watch.trainers():
            # In a network that nobody has trained yet: the paper's.
            self._first = torch.optim.Adam(self.model.parameters(), lr=1e-3)
            return [self._first]
        return self._watch.trainers()

    @contextmanager
    def _gradients_aside(self) -> Iterator[None]:
        groups = [group["params"] for o in self.optimizers() for group in o.param_groups]
        parameters = {p: p.grad for p in (*self.model.parameters(), *chain(*groups))}
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in parameters.items():
                parameter.grad = gradient

    def _own_step(self, batch: Replayed) -> Tensor:
        def loss() -> Tensor:
            self.model.zero_grad()
            with parallel.all_or_none():
                made, matched = self.distillation.forward(self.model, batch.inputs)
                value = self._loss(made, batch)
                value = self.distillation.blended(value, matched, batch.inputs, batch.places)
                value.backward()
            if not isinstance(self.model, nn.parallel.DistributedDataParallel):  # it has done so
                parallel.mean_gradients_(self.model.parameters())
            return value

        optimizers = self.optimizers()
        value = loss()
        for optimizer in optimizers:
            if needs_closure(optimizer):
                optimizer.step(loss)  # type: ignore[arg-type]  # torch's own take a tensor
            else:
                optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        return value

    def _loss(self, made: Any, batch: Replayed) -> Tensor:
        if batch.weights is None:
            return self.loss(made, batch.targets)
        return (self.loss(made, batch.targets, reduction="none") * batch.weights).mean()
