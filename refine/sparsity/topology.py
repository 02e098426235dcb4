"""Which layers compute the network's outputs, and which parameters belong to a layer's outputs?"""

from collections.abc import Iterable, Iterator

import torch
from torch import fx, nn

from refine.sparsity.layers import home, left_out, linear_turned, prunable_names


class Tracer(fx.Tracer):
    """Takes a ``Conv1D`` for one layer, as the layers of torch.nn."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the trace does not go into a module."""
        return linear_turned(m) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module) -> fx.Graph | None:
    """The graph of the model's forward pass; None if torch.fx cannot follow it."""
    try:
        with torch.enable_grad():
            return Tracer().trace(model)
    except Exception:  # the model's own code runs with stand-ins and can fail in any way
        return None


def output_tensors(
    model: nn.Module, names: Iterable[str] | None = None, graph: fx.Graph | None = None
) -> set[str]:
    """The tensors whose layers compute the network's outputs: no other of ``names``, and no layer
    whose weight is left alone, comes after them. The last one if the model cannot be traced.

    names: of weight tensors; by default the prunable ones. graph: what ``traced(model)`` gave, to
    trace only once.
    """
    names = list(prunable_names(model) if names is None else names)
    graph = graph or traced(model)
    homes = {name: home(model, name) for name in (*names, *left_out(model))}
    last: set[str] = set()
    nodes = [node for node in graph.nodes if node.op == "output"] if graph else []
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        mine = [name for name, path in homes.items() if _belongs(name, path, node)]
        last.update(mine)
        if not mine and node.target not in (getattr, "size"):  # they give a shape
            nodes += [before for before in node.all_input_nodes if before not in seen]
            seen.update(node.all_input_nodes)
    return last.intersection(names) if last else set(names[-1:])


def _belongs(name: str, path: str, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(own.startswith(f"{node.target}.") for own in (name, f"{path}."))
    return node.op == "get_attr" and name == node.target


def attached(model: nn.Module, name: str, graph: fx.Graph | None = None) -> list[str]:
    """The parameters with an element for each output of the layer that tensor ``name`` belongs to:
    its bias, and the weight and bias of a batch norm that directly follows it.

    The trace shows which norm that is. Without a trace it is the module defined next, if that is a
    batch norm of the layer's width. A norm that follows several layers belongs to none of them.
    """
    path = home(model, name)
    layer = model.get_submodule(path)
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, nn.Parameter):
        width, found = outputs(layer), []
    else:
        width, found = len(bias), [f"{path}.bias" if path else "bias"]
    graph = graph or traced(model)
    norms = _next_defined(model, path) if graph is None else _next_called(model, path, graph)
    for norm_path in norms:
        norm = model.get_submodule(norm_path)
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.num_features == width:
            found += [f"{norm_path}.{part}" for part, _ in norm.named_parameters(recurse=False)]
    return found


def outputs(layer: nn.Module) -> int | None:
    """How many outputs a convolution or linear layer has."""
    widths = (getattr(layer, name, None) for name in ("out_channels", "out_features", "nf"))
    return next((width for width in widths if width is not None), None)


def _next_called(model: nn.Module, path: str, graph: fx.Graph) -> Iterator[str]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    of_layer = [node for node in calls if node.target == path]
    after = {user.target: None for node in of_layer for user in node.users if user in calls}
    for target in after:
        inputs = [before for node in calls if node.target == target for before in node.args[:1]]
        if all(before in of_layer for before in inputs):
            yield target


def _next_defined(model: nn.Module, path: str) -> Iterator[str]:
    leaves = [name for name, module in model.named_modules() if not list(module.children())]
    if path in leaves[:-1]:
        yield leaves[leaves.index(path) + 1]
