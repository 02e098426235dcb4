"""Which regrowth does ``regrowth`` describe?"""

from collections.abc import Callable
from functools import partial

from torch import nn

from refine.builders.saved import check_shape, saved
from refine.cache import Cache
from refine.config.instantiate import function
from refine.config.schema import RegrowthConfig
from refine.errors import SettingError
from refine.records.rows import EpisodeRow
from refine.regrowth import Regrowth
from refine.regrowth.reference import Denser, Reference
from refine.rng import stream
from refine.sparsity.layers import prunable_names

FROM_CACHE = "cache"


def build_regrowth(
    node: RegrowthConfig,
    seed: int,
    model: nn.Module,
    cache: Cache | None,
    on_episode: Callable[[EpisodeRow], None],
) -> Regrowth:
    """The regrowth of a ``regrowth`` node; ``on_episode`` is called after a controller's trials."""
    if node.score == "none":
        return Regrowth(budget=0)
    allocation = function("regrowth.allocation", node.allocation, "refine.regrowth.allocation")
    if node.allocation == "controller":
        limits = {"episodes": node.controller.episodes, "seconds": node.controller.seconds}
        allocation = partial(
            allocation, **limits, seed=stream(seed, "controller"), on_episode=on_episode
        )
    share = _prunable_share(model)
    if node.target_sparsity is not None and node.target_sparsity >= share:
        problem = f"must be below {share:.4f}, the share that can be cut"
        raise SettingError("regrowth.target_sparsity", problem)
    return Regrowth(
        function("regrowth.score", node.score, "refine.regrowth.score"),
        allocation,
        function("regrowth.initial", node.initial, "refine.regrowth.initial"),
        budget=node.budget,
        target_sparsity=node.target_sparsity and node.target_sparsity / share,
        only_epochs=node.only_epochs,
        seed=seed,
        reference=cache if node.source == FROM_CACHE else _reference(node.source, model),
        trial_steps=node.controller.steps,
    )


def _prunable_share(model: nn.Module) -> float:
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return sum(sizes[name] for name in prunable_names(model)) / sum(sizes.values())


def _reference(path: str | None, model: nn.Module) -> Denser | None:
    if path is None:
        return None
    stored, weights = saved("regrowth.source", path), dict(model.named_parameters())
    for name in prunable_names(model):
        check_shape(stored, name, weights[name].shape)
    return Reference.from_tensors(stored.tensors, prunable_names(model))
