"""Which channels does each piece of a chunk have?

torch-pruning 1.6.1 takes the operations that read pieces for the pieces themselves, in the order in
which it meets them. Which piece each reads stands in autograd's graph. Pieces stay equal, as
``chunk`` makes them: what leaves one leaves all others at the same place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Equal:
    """Adds to indices those at the same place of the other pieces, of ``size`` each."""

    size: int
    pieces: int

    def __call__(self, index: np.ndarray, channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ahead = [index + shift * self.size for shift in range(self.pieces)]
        places = np.concatenate([place % (self.size * self.pieces) for place in ahead])
        pairs = np.stack([places, np.tile(channel, self.pieces)])
        pairs = pairs[:, np.sort(np.unique(pairs, axis=1, return_index=True)[1])]
        return pairs[0], pairs[1]


def pieces_known_(graph: Any, node: Any) -> None:
    """Sets the sizes of the pieces of ``node``, a split of a DependencyGraph, as they are now."""
    from torch_pruning.dependency import shape_infer

    each = getattr(node.grad_fn, "_saved_split_size", None)
    if not isinstance(each, int) or node.grad_fn._saved_dim != 1:
        return
    width = shape_infer.infer_out_channels_recursively(graph, node.inputs[0], [0])
    if not hasattr(node, "pieces"):
        node.pieces = width // each if width and width % each == 0 else 1
        for reader in node.outputs:
            if hasattr(reader.module, "concat_sizes"):  # were read off the wrong pieces, and stay
                reader.module.concat_sizes = None
    if node.pieces > 1:
        size = width // node.pieces
        node.module.split_sizes = [size] * len(node.outputs)
        node.module.offsets = [size * number for number in range(len(node.outputs) + 1)]


def pieces_followed_(graph: Any, node: Any) -> None:
    """Corrects the edges of ``node``, after torch-pruning has set them."""
    from torch_pruning.dependency.index_mapping import _ConcatIndexMapping as Joined
    from torch_pruning.dependency.index_mapping import _SplitIndexMapping as Piece

    if getattr(node, "pieces", 1) == 1:
        return
    size = node.module.split_sizes[0]
    equal = Equal(size, node.pieces)
    for before in node.inputs:
        for edge in before.dependencies:
            if edge.target is node:
                edge.index_mapping[2:] = [equal]
    for reader in dict.fromkeys(node.outputs):
        read = [piece for made, piece in reader.grad_fn.next_functions if made is node.grad_fn]
        down = [edge for edge in node.dependencies if edge.target is reader]
        up = [edge for edge in reader.dependencies if edge.target is node]
        for piece, there, back in zip(read, down, up, strict=True):
            offset = [piece * size, (piece + 1) * size]
            there.index_mapping[0] = Piece(offset=offset, reverse=False)
            # On the way back the place in a concatenation comes first; torch-pruning has it last.
            joined = back.index_mapping[1] if type(back.index_mapping[1]) is Joined else None
            back.index_mapping[:] = [joined, Piece(offset=offset, reverse=True), equal]
