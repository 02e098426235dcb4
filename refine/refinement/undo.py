"""How does a network become again what it was before a cycle that failed?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from refine.cycle import Parts
from refine.pruning.importance import StatefulImportance
from refine.sparsity.shrink import Follower, named_tensors, reshape_


@contextmanager
def undone_if_it_fails(
    parts: Parts, importance: StatefulImportance, followers: Mapping[str, Follower]
) -> Iterator[None]:
    """A block after which, if it raises anything, the network, its masks, its optimizers and all
    parts of the refinement are as they were before it. Meanwhile it holds a copy of the network, of
    the optimizers' state and of the parts' state."""
    model, watch, cycles = parts.model, parts.watch, parts.cycles
    tensors = {name: tensor.detach().clone() for name, tensor, _ in named_tensors(model)}
    optimizers = {optimizer: _copied(vars(optimizer)["state"]) for optimizer in watch.alive()}
    settings = {o: [_settings(group) for group in o.param_groups] for o in optimizers}
    own = [(thing, _attributes(thing)) for thing in (watch, watch.masks, parts.method)]
    states = {name: _copied(part.state_dict()) for name, part in followers.items()}
    memory, steps = _copied(parts.replay.state_dict()), _copied(importance.state_dict())
    try:
        yield
    except BaseException:
        reshape_(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        with torch.no_grad():
            for name, tensor, _ in named_tensors(model):
                tensor.copy_(tensors[name])
        torch.clear_autocast_cache()  # of the weights after the cut
        for optimizer, state in optimizers.items():
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, before in zip(optimizer.param_groups, settings[optimizer], strict=True):
                group.update(before)
        for thing, attributes in own:
            vars(thing).update(attributes)
        for name, part in followers.items():
            part.load_state_dict(states[name], model)
        parts.replay.load_state_dict(memory)
        importance.load_state_dict(steps)
        parts.cycles = cycles
        raise


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) for name, value in group.items() if name != "params"}


def _attributes(thing: object) -> dict[str, Any]:
    """Its attributes; what these mappings and lists hold is replaced in a cycle, never changed."""
    return {
        name: value.copy() if isinstance(value, dict | list | WeakTensorKeyDictionary) else value
        for name, value in vars(thing).items()
    }


def _copied(value: Any) -> Any:
    """A copy, with copies of all tensors; keys stay the same objects."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(entry) for entry in value)
    return value
