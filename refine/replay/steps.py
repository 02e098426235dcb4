"""How is a network trained on what is replayed?"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from refine.batches import Batch
from refine.distillation import Distillation
from refine.evaluation.traceless import in_mode
from refine.replay.batch import Replayed
from refine.sparsity.optimizers import OptimizerWatch, fallback, needs_closure

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
        loss: Callable[..., Tensor],
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
        """Trains on every batch; their losses."""
        losses = []
        self.distillation.begin_replay()
        try:
            for batch in batches:
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
            self._first = fallback(list(self.model.parameters()))
            return [self._first]
        return self._watch.trainers()

    def _own_step(self, batch: Replayed) -> Tensor:
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
            if needs_closure(optimizer):
                optimizer.step(loss)  # type: ignore[arg-type]  # torch's own take a tensor
            else:
                optimizer.step()
        self.model.zero_grad()  # leave no gradient to the user's next step
        for optimizer in optimizers:
            optimizer.zero_grad()
        return value

    def _loss(self, outputs: Tensor, batch: Replayed) -> Tensor:
        if batch.weights is None:
            return self.loss(outputs, batch.targets)
        each = self.loss(outputs, batch.targets, reduction="none")
        if each.dim() > 1:
            each = each.flatten(1).mean(1)
        return (each * batch.weights).mean()
