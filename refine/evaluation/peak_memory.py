"""How much memory does a pass through a network take, beside the network itself?

On a CPU it is the most bytes that tensors made by the pass have at once, looked at after each
operation of PyTorch; what an operation needs for itself while it works is not seen. On a GPU it is
the greatest increase of what PyTorch has allocated there, which includes that.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refine.evaluation.traceless import in_mode


@torch.no_grad()
def peak_bytes(model: nn.Module, images: Tensor) -> int:
    """The peak of one pass in bytes; ``images`` (N, ...) are on the network's device."""
    with in_mode(model, training=False):
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
            before = torch.cuda.memory_allocated(images.device)
            torch.cuda.reset_peak_memory_stats(images.device)
            model(images)
            torch.cuda.synchronize(images.device)
            return torch.cuda.max_memory_allocated(images.device) - before
        with _Living([images, *model.parameters(), *model.buffers()]) as living:
            model(images)
        return living.peak


class _Living(TorchDispatchMode):
    """Sums the storages that operations have made and that are still in use."""

    def __init__(self, known: list[Tensor]):
        super().__init__()
        self.peak = 0
        self._known = {StorageWeakRef(tensor.untyped_storage()) for tensor in known}
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                place = StorageWeakRef(storage)
                if place not in self._known:
                    self._made[place] = storage.nbytes()
        self._made = {place: size for place, size in self._made.items() if not place.expired()}
        self.peak = max(self.peak, sum(self._made.values()))
        return results
