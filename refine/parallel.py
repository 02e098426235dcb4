"""How do the processes of a data parallel training (torch.distributed) do the same in a cycle?

Scores, gradients and measurements are averaged over the processes, random draws are those of the
first, and a cycle that fails in one of them fails in all. Where there is only one process, nothing
here does anything. All processes must call these in the same order.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")
FLOAT = torch.float32  # at least, in which means are taken


def several() -> bool:
    """Whether this is one of several processes that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_whole(model: nn.Module) -> None:
    """ValueError if the tensors of ``model`` are spread over the processes."""
    for name, tensor in model.named_parameters():
        if type(tensor).__name__ in ("DTensor", "FlatParameter"):
            raise ValueError(
                f"{name} is spread over processes (FSDP, tensor parallel), and a refinement needs "
                "it whole; refine under DistributedDataParallel, or before the model is sharded"
            )


@contextmanager
def all_or_none() -> Iterator[None]:
    """A block that raises in all processes if it raises in one."""
    if not several():
        yield
        return
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
    failed = _reduced(torch.tensor([error is not None], dtype=torch.int32), dist.ReduceOp.MAX)
    if error is not None:
        raise error
    if failed.item():
        raise RuntimeError("a refinement cycle failed in another process, and so in this one")


def mean_(tensors: Mapping[str, Tensor]) -> None:
    """Replaces the content of each tensor by its mean over the processes, in place; those that are
    equal in all stay as they are, to the bit."""
    if several():
        for name in sorted(tensors):
            if not _equal(tensors[name]):
                wide = tensors[name].detach().to(torch.promote_types(tensors[name].dtype, FLOAT))
                wide = _reduced(wide.contiguous(), dist.ReduceOp.SUM) / dist.get_world_size()
                tensors[name].copy_(wide)


def mean_gradients_(parameters: Iterable[Tensor]) -> None:
    """Averages the gradients over the processes, in place; one that is missing here counts as 0
    where another process has it."""
    if several():
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
        anywhere = _reduced(has, dist.ReduceOp.MAX).tolist()
        for parameter, used in zip(trained, anywhere, strict=True):
            if used:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                total = _reduced(own.to_dense().contiguous(), dist.ReduceOp.SUM)
                parameter.grad = total / dist.get_world_size()


def mean_of(measure: Callable[[Item], float] | None) -> Callable[[Item], float] | None:
    """``measure``, averaged over the processes."""
    if measure is None or not several():
        return measure
    own = measure

    def measured(item: Item) -> float:
        with all_or_none():
            value = own(item)
        total = _reduced(torch.tensor([value], dtype=torch.float64), dist.ReduceOp.SUM)
        return float(total) / dist.get_world_size()

    return measured


def first_(tensors: Iterable[Tensor]) -> None:
    """Gives the tensors the contents that they have in the first process."""
    if several():
        for tensor in tensors:
            dense = _on_device(tensor.detach().contiguous())
            dist.broadcast(dense, 0)
            with torch.no_grad():
                tensor.copy_(dense)


def first_number(number: int) -> int:
    """The number of the first process, from 0 to below 2^64."""
    if several():
        half = 2**63  # a seed has 64 bits without a sign
        held = _on_device(torch.tensor([number - half], dtype=torch.int64))
        dist.broadcast(held, 0)
        return int(held) + half
    return number


def together(items: Iterable[Item]) -> Iterator[Item]:
    """The items for as long as every process has one: it ends with the shortest."""
    iterator = iter(items)
    missing = object()
    while True:
        with all_or_none():
            item = next(iterator, missing)
        if several():
            left = torch.tensor([item is not missing], dtype=torch.int32)
            if not _reduced(left, dist.ReduceOp.MIN).item():
                return
        if item is missing:
            return
        yield item  # type: ignore[misc]


def equal_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Gives every process the parameters and buffers of the first. RuntimeError if the masks, or
    the shapes, are not the same in all."""
    if several():
        tensors = [*model.parameters(), *model.buffers()]
        shapes = torch.tensor([size for tensor in tensors for size in tensor.shape])
        if not _equal(shapes):
            raise RuntimeError("the processes have taken out different channels")
        for name in sorted(masks):
            if not _equal(masks[name]):
                raise RuntimeError(f"the processes have cut different weights of {name}")
        first_(tensors)


def _equal(tensor: Tensor) -> bool:
    """Whether shape and content are the same in all processes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    digest = hashlib.sha256(str(tuple(tensor.shape)).encode() + content).digest()
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(torch.int32)
    low = _reduced(own.clone(), dist.ReduceOp.MIN)
    return bool(low.equal(_reduced(own.clone(), dist.ReduceOp.MAX)))


def _reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    moved = _on_device(tensor)
    dist.all_reduce(moved, operation)
    return moved.to(tensor.device)


def _on_device(tensor: Tensor) -> Tensor:
    """On the GPU where the processes talk through one."""
    if dist.get_backend() == "nccl" and not tensor.is_cuda:
        return tensor.to(torch.device("cuda", torch.cuda.current_device()))
    return tensor
