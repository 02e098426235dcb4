"""Which refinement does a configuration stand for?"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from refine.builders.model import load_into_, tensors_of
from refine.config.instantiate import function
from refine.errors import SettingError
from refine.pruning.allocation import BoundedAllocation
from refine.records.rows import EpisodeRow
from refine.refinement import FROM_CACHE, RuntimeRefinement
from refine.regrowth.reference import Reference
from refine.regrowth.regrowth import Regrowth
from refine.replay import Replayed
from refine.rng import stream
from refine.sparsity.layers import prunable_names

log = logging.getLogger("refine")


def build_refinement(
    config: DictConfig,
    model: nn.Module,
    optimizer: Optimizer,
    step: Callable[[Replayed], Tensor],
    on_episode: Callable[[EpisodeRow], None],
    **consolidation: Any,
) -> RuntimeRefinement:
    """The refinement that ``pruner`` and ``regrowth`` describe, with replay, distillation and
    cache; ``step`` is one step of its replay with ``optimizer``."""
    pruner = config.pruner
    granularity = function("pruner.granularity", pruner.granularity, "refine.pruning.granularity")
    allocation = function("pruner.allocation", pruner.allocation, "refine.pruning.allocation")
    bounded = BoundedAllocation(allocation, dict(pruner.layers or {}), pruner.min_layer_density)
    regrowth = build_regrowth(config.regrowth, config.seed, _prunable_share(model), on_episode)
    try:
        refinement = RuntimeRefinement(
            model,
            importance=function(
                "pruner.importance", pruner.importance, "refine.pruning.importance"
            ),
            allocation=bounded,
            granularity=partial(granularity, n=pruner.n, m=pruner.m),
            regrowth=regrowth,
            reference=_reference(config.regrowth.source, model),
            scoring_batches=pruner.scoring_batches,
            trial_steps=config.regrowth.controller.steps,
            downscale_factor=pruner.downscale_factor,
            optimizer=optimizer,
            step=step,
            **consolidation,
        )
    except ValueError as error:
        raise SettingError("model", str(error)) from error
    try:
        bounded.own(refinement.masks)
    except ValueError as error:
        raise SettingError("pruner.layers", str(error)) from error
    for name in refinement.granularity.left_out:
        log.info("pruner.granularity=%s leaves %s dense", pruner.granularity, name)
    return refinement


def begin_(config: DictConfig, refinement: RuntimeRefinement) -> None:
    """Makes the network what ``start_from`` and ``pruner.initial_sparsity`` say."""
    pruner, masks = config.pruner, refinement.masks
    if config.start_from is not None:
        load_into_("start_from", config.start_from, refinement.model, refinement.reshape_)
        masks.cut_({name: weight.detach() == 0 for name, weight in masks.weights().items()})
    if pruner.initial_sparsity:
        share = masks.prunable / refinement.total_parameters
        if pruner.initial_sparsity >= share:
            problem = f"must be below {share:.4f}, what can be cut"
            raise SettingError("pruner.initial_sparsity", problem)
        rule = function(
            "pruner.initial_allocation", pruner.initial_allocation, "refine.pruning.allocation"
        )
        # Shares other than 0 are of a cycle, and this is none.
        stay = {glob: 0 for glob, share in (pruner.layers or {}).items() if not share}
        refinement.sparsify(
            pruner.initial_sparsity / share, BoundedAllocation(rule, stay, pruner.min_layer_density)
        )


def build_regrowth(
    node: DictConfig, seed: int, share: float, on_episode: Callable[[EpisodeRow], None]
) -> Regrowth:
    """The regrowth that a ``regrowth`` node describes; ``share`` of the parameters is prunable."""
    if node.score == "none":
        return Regrowth(budget=0)
    allocation = function("regrowth.allocation", node.allocation, "refine.regrowth.allocation")
    if node.allocation == "controller":
        limits = {"episodes": node.controller.episodes, "seconds": node.controller.seconds}
        allocation = partial(
            allocation, **limits, seed=stream(seed, "controller"), on_episode=on_episode
        )
    if node.target_sparsity is not None and node.target_sparsity >= share:
        problem = f"must be below {share:.4f}, what can be cut"
        raise SettingError("regrowth.target_sparsity", problem)
    return Regrowth(
        function("regrowth.score", node.score, "refine.regrowth.score"),
        allocation,
        function("regrowth.initial", node.initial, "refine.regrowth.initial"),
        budget=node.budget,
        target_sparsity=node.target_sparsity and node.target_sparsity / share,
        only_epochs=node.only_epochs,
        seed=seed,
    )


def _prunable_share(model: nn.Module) -> float:
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return sum(sizes[name] for name in prunable_names(model)) / sum(sizes.values())


def _reference(path: str | None, model: nn.Module) -> Reference | str | None:
    if path in (None, FROM_CACHE):
        return path
    tensors, weights = tensors_of("regrowth.source", path), dict(model.named_parameters())
    for name in prunable_names(model):
        if name not in tensors or tensors[name].shape != weights[name].shape:
            raise SettingError("regrowth.source", f"is of another network: {name} does not fit")
    return Reference.from_tensors(tensors, prunable_names(model))
