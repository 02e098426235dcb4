"""Which columns of a linear layer read a channel if images were flattened channels last?

torch-pruning 1.6.1 assumes that every flattened image was (channels, places). Where it was
``permute(0, 2, 3, 1).flatten(1)``, as in SimpleCNN, it would score and cut other channels' columns.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

TO_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class ChannelsLast:
    """Maps a position in (channels, places) to one in (places, channels), or back. ``layer`` reads
    them; its width tells how many channels there are now."""

    layer: nn.Linear
    places: int
    back: bool

    def __call__(self, indices: list[Any]) -> list[Any]:
        from torch_pruning._helpers import _HybridIndex as Index

        rows, columns = self.layer.in_features // self.places, self.places
        if self.back:
            rows, columns = columns, rows
        return [
            Index(idx=at.idx % columns * rows + at.idx // columns, root_idx=at.root_idx)
            for at in indices
        ]


def flattened_channels_last_(graph: Any) -> None:
    """Corrects a built DependencyGraph for every such layer."""
    from torch_pruning import ops
    from torch_pruning.dependency import shape_infer

    for node in list(graph.module2node.values()):
        if node.type != ops.OPTYPE.RESHAPE:
            continue
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
                # The first of an edge's two mappings is torch-pruning's own, which it makes again
                # for every group. This one is put behind the reshape: before it, the way back
                # would be wrong.
                for here, there, back in ((node, after, False), (after, node, True)):
                    for edge in here.dependencies:
                        if edge.target is there:
                            edge.index_mapping[1] = ChannelsLast(reader.module, places, back)
