"""Would a cycle work on these batches? One batch goes through network, loss, memory and teacher
before anything is cut."""

from typing import Any

import torch

from refine import parallel
from refine.batches import Samples
from refine.cycle import Parts
from refine.distillation import Distillation
from refine.evaluation.traceless import without_trace
from refine.objective import outputs
from refine.replay import Replay
from refine.sparsity.structure import follow_
from refine.sparsity.watching import watched
from refine.sparsity.zeros import say_written, say_zeros


def checked(parts: Parts, ratio: Any) -> float:
    """The ratio of a cycle that may begin. What has changed since the last one is followed and
    said. ValueError for a ratio that is none, or where no cycle can be."""
    if watched(parts.model) is not parts.watch:
        raise ValueError("this refinement was detached from its model; make a new one")
    if torch.is_inference_mode_enabled():
        raise ValueError("a cycle trains; call it outside torch.inference_mode()")
    try:
        number = float(ratio)
    except (TypeError, ValueError):
        raise ValueError(f"prune_ratio must be a number below 1, not {ratio!r}") from None
    if not number < 1:
        raise ValueError(f"prune_ratio must be below 1, not {number:g}")
    if number < 0 and not parts.regrowth.active:
        raise ValueError(f"prune_ratio={number:.3g} needs a regrowth, and there is none")
    follow_(parts.watch, parts.model)
    say_written(parts.watch)
    say_zeros(parts.watch)
    return number


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
