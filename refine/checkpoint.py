"""How is a network saved?"""

from pathlib import Path

import safetensors.torch
from torch import nn

from refine.files import written_whole


def save_model(model: nn.Module, path: Path) -> None:
    """Writes the parameters and buffers of ``model`` to a safetensors file, whole or not at all.

    ``safetensors.torch.load_model(model, path)`` reads it; nothing in it is executed. Tensors that
    share their memory are written once.
    """
    with written_whole(path) as part:
        safetensors.torch.save_model(model, str(part))
