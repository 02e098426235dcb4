"""Would a cycle work on these batches? One batch goes through network, loss, memory and teacher
before anything is cut."""

import torch

from refine import parallel
from refine.batches import Samples
from refine.cycle import Parts
from refine.distillation import Distillation
from refine.evaluation.traceless import without_trace
from refine.objective import outputs
from refine.replay import Replay


def rehearse(parts: Parts, samples: Samples) -> None:
    """Takes the first batch of ``samples``, if there will be a replay, and leaves no trace.
    ValueError, with the reason, if the network cannot be called with it, its loss is no single
    number, the replay cannot keep it, or a teacher's outputs could not be compared."""
    if isinstance(parts.replay, Replay) and not parts.replay.steps:
        return
    with parallel.all_or_none():
        _try(parts, samples)


def _try(parts: Parts, samples: Samples) -> None:
    for inputs, targets in samples:
        try:
            with without_trace(parts.model, training=False), torch.no_grad():
                made = outputs(parts.model, inputs)
                value = parts.loss(made, targets)
        except Exception as error:  # whatever the user's network or loss raises
            what = f"the network or its loss cannot use a batch of the loader: {error}"
            raise ValueError(f"{what} ({type(error).__name__}); nothing was cut") from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ValueError("the loss must be one number for a batch; nothing was cut")
        if isinstance(parts.distillation, Distillation):
            parts.distillation.fit(parts.loss, made, targets)
        if isinstance(parts.replay, Replay):
            with without_trace(parts.model, training=False):
                parts.replay.rehearse(parts.model, (inputs, targets))
        return
