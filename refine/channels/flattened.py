"""Which columns of a linear layer read a channel if images were flattened channels last?

torch-pruning 1.6.1 assumes that every flattened image was (channels, places). Where it was
``permute(0, 2, 3, 1).flatten(1)``, as in SimpleCNN, it would score and cut other channels' columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

TO_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class ChannelsLast:
    """Maps positions in (channels, places) to those in (places, channels), or back. ``layer`` reads
    them; its width tells how many channels there are now."""

    layer: nn.Linear
    places: int
    back: bool

    def __call__(self, index: np.ndarray) -> np.ndarray:
        rows, columns = self.layer.in_features // self.places, self.places
        if self.back:
            rows, columns = columns, rows
        return index % columns * rows + index // columns


def flattened_channels_last_(graph: Any, node: Any) -> None:
    """Corrects the reshape ``node`` of a DependencyGraph if it is of that kind."""
    from torch_pruning.dependency import shape_infer

    for origin in node.inputs:
        while origin.grad_fn is not None and "Clone" in origin.grad_fn.name():
            origin = origin.inputs[0]
        if getattr(origin.grad_fn, "_saved_dims", None) != TO_CHANNELS_LAST:
            continue
        channels = shape_infer.infer_out_channels_recursively(graph, origin, [0])
        for after in node.outputs:
            reader = after
            while not isinstance(reader.module, nn.Linear) and reader.outputs:
                reader = reader.outputs[0]
            if not isinstance(reader.module, nn.Linear) or not channels:
                continue
            places = reader.module.in_features // channels
            # The first of an edge's two mappings is torch-pruning's own. This one is put behind the
            # reshape: before it, the way back would be wrong.
            for here, there, back in ((node, after, False), (after, node, True)):
                for edge in here.dependencies:
                    if edge.target is there:
                        edge.index_mapping[1] = ChannelsLast(reader.module, places, back)
