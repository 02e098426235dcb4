"""Which networks are being refined in this process?"""

import logging
import weakref
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from refine.sparsity.closures import Arguments, has_closure, showing
from refine.sparsity.layers import left_out, named, said
from refine.sparsity.masks import Masks
from refine.sparsity.optimizers import OptimizerWatch
from refine.sparsity.structure import follow_
from refine.sparsity.zeros import say_zeros

log = logging.getLogger("refine")
# A watch lives as long as its network. There is one pair of hooks for all of them, never removed:
# their number must not change while torch walks through them.
_watches: weakref.WeakKeyDictionary[nn.Module, "OptimizerWatch"] = weakref.WeakKeyDictionary()
_hooked: list[RemovableHandle] = []


def watch(model: nn.Module, prunable: Iterable[str] | None = None) -> "OptimizerWatch":
    """The watch of ``model``: the one that it has, with its masks, else a new one.

    ValueError if it has one with other ``prunable`` tensors, or there is nothing to prune.
    """
    if not _hooked:
        _hooked.append(register_optimizer_step_pre_hook(_before_step))
        _hooked.append(register_optimizer_step_post_hook(_after_step))
    names = None if prunable is None else named(model, prunable)
    found = _watches.get(model)
    if found is None:
        found = _watches[model] = OptimizerWatch(model, Masks(model, names), names is not None)
        if names is None and (others := left_out(model)):
            log.warning("left alone unless prunable=[...] names it: %s", said(others))
        model.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
        return found
    follow_(found, model)
    if names is not None and set(names) != set(found.masks):
        raise ValueError("this model is being refined already, with other prunable tensors")
    return found


def watched(model: nn.Module) -> "OptimizerWatch | None":
    """The watch of ``model``, if it has one."""
    return _watches.get(model)


def forget(model: nn.Module) -> None:
    """Ends the watch of ``model``, with its masks."""
    _watches.pop(model, None)


def _before_step(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments | None:
    closure, watches = has_closure(args, kwargs), dict(_watches)
    for model, watching in watches.items():
        if watching.meets(optimizer):  # the first step of another training
            follow_(watching, model)
            say_zeros(watching)
        watching.before(optimizer, closure)
    if not closure or not any(watching.observers for watching in watches.values()):
        return None

    def show() -> None:
        for watching in watches.values():
            watching.observe(optimizer)

    return showing(args, kwargs, show)


def _loaded(model: nn.Module, keys: object) -> None:
    """Weights were loaded: those that are cut stay cut, and those that are frozen stay so as they
    are now."""
    if (watching := _watches.get(model)) is not None:
        watching.masks.zero_cut_()
        watching.freeze_anew_()


def _after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for watching in list(_watches.values()):
        watching.after(optimizer, has_closure(args, kwargs))
