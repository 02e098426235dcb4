"""How is the library torch-pruning asked what depends on what, whatever it makes of a network?

Only this, follow.py, pieces.py and criteria.py know that library. What it raises, or would take
without end, becomes a ValueError that says so, or a part of the network that is not followed.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from refine.channels.flattened import flattened_channels_last_
from refine.channels.pieces import pieces_followed_, pieces_known_
from refine.evaluation.traceless import in_mode

INSTALL = "pip install 'runtime-refinement[structured]'"
# How often a width may be asked for until a graph's are known: DenseNet-121 takes 800 questions,
# Swin-T 114,000, and where paths multiply there are millions.
QUESTIONS = 500_000


def torch_pruning() -> Any:
    """The library; ValueError if it is not installed."""
    try:
        import torch_pruning as library
    except ImportError:
        raise ValueError(f"channels need the library torch-pruning: {INSTALL}") from None
    return library


def dependencies(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's graph of ``model`` from a pass of ``example`` (N, ...): its layers and
    operations, and what each makes and reads.

    ``graph.opaque`` are those that it cannot look through; ``graph.widest`` is how many elements
    the largest tensor has that a module takes or gives. ValueError where it fails altogether.
    """
    graph = torch_pruning().DependencyGraph()
    graph.opaque, graph.questions, graph.widest = set(), 0, 0
    for name in ("get_out_channels", "get_in_channels"):
        setattr(graph, name, _counted(graph, getattr(graph, name)))
    with in_mode(model, training=False), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # about parameters without a layer: they get a Member
        try:
            graph.build_dependency(
                model,
                example_inputs=example[:1],
                forward_fn=partial(_measured, graph),
                output_transform=_differentiable,
                verbose=False,
            )
        except Exception as error:
            if not getattr(graph, "module2node", None):
                reason = f"torch-pruning cannot follow the network: {said(error)}"
                raise ValueError(reason) from error
    update_(graph)  # again, as one operation may have kept all others from it
    return graph


def update_(graph: Any, nodes: Collection[Any] | None = None) -> None:
    """Brings up to date which indices the operations of a graph take from and to each other: all of
    them, or ``nodes``."""
    from torch_pruning.dependency import index_mapping
    from torch_pruning.ops import OPTYPE

    updates = {
        OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
        OPTYPE.SPLIT: index_mapping.update_split_index_mapping,
        OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
        OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
        OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
        OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
    }
    graph.questions = 0
    stale = [node for node in graph.module2node.values() if nodes is None or node in nodes]
    graph.opaque.difference_update(stale)
    splits = [node for node in stale if node.type == OPTYPE.SPLIT]
    for node in splits:
        with _opaque(graph, node):
            pieces_known_(graph, node)
    for node in stale:
        with _opaque(graph, node):
            if node.type in updates:
                updates[node.type](graph, node)
            if node.type == OPTYPE.RESHAPE:
                flattened_channels_last_(graph, node)
    for node in splits:
        with _opaque(graph, node):
            pieces_followed_(graph, node)


def said(error: Exception) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.80}"


@contextmanager
def _opaque(graph: Any, node: Any) -> Iterator[None]:
    try:
        yield
    except Exception:  # the library's own, on an operation that it does not know
        graph.opaque.add(node)


def _measured(graph: Any, model: nn.Module, example: Tensor) -> Any:
    def measure(module: nn.Module, given: Any, made: Any) -> None:
        sizes = [x.numel() for x in pytree.tree_leaves((given, made)) if isinstance(x, Tensor)]
        graph.widest = max(graph.widest, *sizes, 0)

    handles = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        return model(example)
    finally:
        for handle in handles:
            handle.remove()


def _counted(graph: Any, ask: Callable[..., Any]) -> Callable[..., Any]:
    def counted(node: Any) -> Any:
        graph.questions += 1
        if graph.questions > QUESTIONS:
            raise ValueError("there are too many paths between its layers")
        return ask(node)

    return counted


def _differentiable(outputs: Any) -> list[Tensor]:
    return [
        leaf
        for leaf in pytree.tree_leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.grad_fn is not None
    ]
