"""How does a network train on what is replayed?"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from refine.batches import Batch
from refine.distillation import Distillation
from refine.evaluation.traceless import in_mode
from refine.replay import Replayed
from refine.sparsity.optimizers import OptimizerWatch, fallback, needs_closure

Step = Callable[[Replayed], Tensor]


class ReplayTraining:
    """Takes the steps of a replay with ``step``, or with ``loss`` and ``optimizer``; without one,
    with the optimizers that trained the model so far, else Adam."""

    def __init__(
        self,
        model: nn.Module,
        watch: OptimizerWatch,
        loss: Callable[..., Tensor],
        optimizer: Optimizer | None,
        step: Step | None,
        distillation: Distillation,
    ):
        self.model, self.loss, self.step = model, loss, step or self._step
        self.distillation = distillation
        self._watch, self._optimizer = watch, optimizer

    def on(self, batches: Iterable[Batch | Replayed]) -> list[Tensor]:
        """Trains on every batch; their losses."""
        losses = []
        self.distillation.begin_replay()
        try:
            for batch in batches:
                with in_mode(self.model, training=True):
                    losses.append(self.step(Replayed(*batch)).detach())
        finally:
            self.distillation.end_replay()
        return losses

    def optimizers(self) -> list[Optimizer]:
        """What takes the steps."""
        if self._optimizer is not None:
            return [self._optimizer]
        if not self._watch.trainers():
            self._first = fallback(list(self.model.parameters()))
            return [self._first]
        return self._watch.trainers()

    def _step(self, batch: Replayed) -> Tensor:
        def loss() -> Tensor:
            self.model.zero_grad()
            outputs, matched = self.distillation.forward(self.model, batch.inputs)
            value = self._loss(outputs, batch)
            value = self.distillation.blended(value, matched, batch.inputs, batch.places)
            value.backward()
            return value

        optimizers = self.optimizers()
        value = loss()
        for optimizer in optimizers:
            optimizer.step(loss) if needs_closure(optimizer) else optimizer.step()
        for trained in (self.model, *optimizers):  # leave no gradient to the user's next step
            trained.zero_grad()
        return value

    def _loss(self, outputs: Tensor, batch: Replayed) -> Tensor:
        if batch.weights is None:
            return self.loss(outputs, batch.targets)
        each = self.loss(outputs, batch.targets, reduction="none")
        return (
            (each.flatten(1).mean(1) * batch.weights).mean()
            if each.dim() > 1
            else (each * batch.weights).mean()
        )
