"""Which object does a piece of the configuration stand for?

The ``_target_`` of a node is called with the node's other values. A plain name means the public
function of that name in a module, so a new function there is a new choice.
"""

import importlib
import inspect
import keyword
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from refine.errors import FieldError, SettingError, one_of


def build(
    setting: str,
    node: DictConfig | dict[str, Any],
    *args: Any,
    offered: dict[str, Any] | None = None,
) -> Any:
    """Calls the ``_target_`` of ``node`` with ``args`` and the node's own arguments.

    It also gets those ``offered`` keyword arguments that its signature names and the node does not
    set, and ``num_classes`` if the signature ends in ``**kwargs``, as that of torchvision's models
    does. If it refuses, this is a SettingError for ``setting``, or for the field that its
    FieldError names.
    """
    from hydra.utils import instantiate  # imported late: it takes longer than a report

    imported(f"{setting}._target_", node["_target_"])
    try:
        made: partial[Any] = instantiate(node, _partial_=True, _convert_="all")
    except Exception as error:  # of a node within this one
        reason = " ".join(str(error).split())
        raise SettingError(setting, f"cannot be made: {reason:.200}") from error
    names, open_ended = parameters_of(made.func)
    for name, value in (offered or {}).items():
        if name not in made.keywords and (name in names or (open_ended and name == "num_classes")):
            made.keywords[name] = value
    try:
        return made(*args)
    except SettingError:
        raise
    except FieldError as error:
        raise SettingError(f"{setting}.{error.field}", error.problem) from error
    except (Exception, SystemExit) as error:  # every constructor refuses in its own way
        raise SettingError(setting, f"{node['_target_']} refuses its settings: {error}") from error


def parameters_of(target: Callable[..., Any]) -> tuple[set[str], bool]:
    """The names of a callable's parameters, and whether it takes any others."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # some callables written in C have no signature
        return set(), False
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return set(signature.parameters), inspect.Parameter.VAR_KEYWORD in kinds


def imported(setting: str, path: str) -> Callable[..., Any]:
    """The callable at a dotted import path; SettingError if there is none."""
    try:
        module, _, name = path.rpartition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a user's own module can raise anything
        raise SettingError(setting, f"cannot import {path!r}: {error}") from error
    if not callable(found):
        raise SettingError(setting, f"{path!r} is a {type(found).__name__}, not a callable")
    return found


def function(setting: str, name: str, module: str) -> Callable[..., Any]:
    """The function that ``name`` means: one of ``module``'s, or any by its import path."""
    if "." in name:
        return imported(setting, name)
    home = importlib.import_module(module)
    known = public_functions(home)
    if name not in known:
        raise SettingError(setting, f"there is no {name!r}; {one_of(sorted(known), name)}")
    return known[name]


def public_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that ``module`` offers by name; ``global_`` has the name ``global``."""
    found: dict[str, Callable[..., Any]] = {}
    for name in module.__all__:
        plain = name.removesuffix("_")
        found[plain if keyword.iskeyword(plain) else name] = getattr(module, name)
    return found
