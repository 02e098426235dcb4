"""How is a network measured without leaving a trace in it?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from refine.evaluation.accuracy import in_mode


@contextmanager
def without_trace(model: nn.Module, training: bool) -> Iterator[None]:
    """Passes through ``model``, in training or evaluation mode, after which its buffers, its
    modules' modes and the generators of torch are as they were, to the bit."""
    devices = {parameter.device for parameter in model.parameters()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with (
        torch.random.fork_rng([device for device in devices if device.type == "cuda"]),
        in_mode(model, training=training),
    ):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
