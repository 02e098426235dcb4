"""Which tensors does a cut leave alone, and what is said of it?"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from refine.pruning.allocation import BoundedAllocation
from refine.sparsity.layers import said

log = logging.getLogger("refine")


def without_scores(
    importance: Callable[..., Any],
    scores: Any,
    weights: Mapping[str, nn.Parameter],
    named: bool,
) -> dict[str, str]:
    """The prunable ``weights`` that ``importance`` gave no score, each with the reason.

    named: whether the user has named them. ValueError if nothing has a score, or if they are named
    and a frozen one has none.
    """
    who = shown(importance)
    if not isinstance(scores, Mapping):
        raise ValueError(f"{who} gave no scores, but a {type(scores).__name__}")
    missing = {
        name: f"{who} gives it no score" if weight.requires_grad else "frozen"
        for name, weight in weights.items()
        if name not in scores
    }
    if named and (frozen := [name for name, reason in missing.items() if reason == "frozen"]):
        raise ValueError(
            f"{frozen[0]} is frozen, and {who} gives it no score; let it train, take it out of "
            "prunable, or use an importance that needs no gradients, such as magnitude"
        )
    if len(missing) == len(weights):
        raise ValueError(f"{who} gives no score to any prunable tensor: {said(missing)}")
    return missing


def say_nothing_cut(
    number: int,
    granularity: Callable[..., Any],
    allocation: Callable[..., Any],
    grouped: Mapping[str, Tensor],
    counts: Mapping[str, int],
) -> bool:
    """Says why cycle ``number`` cuts nothing, given the scores of what can be cut as a unit and how
    many weights the allocation takes. Whether it is a warning: not where whole units round to none,
    or the pattern of n_m is there already."""
    if not grouped:
        reason = f"no tensor can be cut with granularity={shown(granularity)}"
    elif not any(counts.values()):
        reason = "the allocation takes no weight of any tensor"
        if isinstance(allocation, BoundedAllocation):
            settings = allocation.min_layer_density, dict(allocation.layers)
            reason += f" with min_layer_density={settings[0]}" if settings[0] else ""
            reason += f" with layers={settings[1]}" if settings[1] else ""
    else:
        log.info(
            "cycle %d cuts nothing: %d weights come to no whole unit of granularity=%s",
            number, sum(counts.values()), shown(granularity),
        )  # fmt: skip
        return False
    log.warning("cycle %d cuts nothing: %s", number, reason)
    return True


def shown(function: Callable[..., Any]) -> str:
    """A function's name, with the arguments that are bound to it."""
    if isinstance(function, partial):
        bound = ", ".join(f"{name}={value!r:.40}" for name, value in function.keywords.items())
        return f"{shown(function.func)}({bound})"
    return getattr(function, "__name__", type(function).__name__)
