"""How does a cycle cut, as ``pruner`` says?"""

from fnmatch import fnmatchcase
from functools import partial

from torch import Tensor, nn

from refine.builders.schedule import unit_of
from refine.channels.groups import torch_pruning
from refine.channels.plan import Structured
from refine.config.instantiate import function
from refine.config.schema import PrunerConfig, RunConfig
from refine.errors import SettingError
from refine.pruning.allocation import BoundedAllocation
from refine.pruning.cut import Masked

ALLOCATIONS = "refine.pruning.allocation"


def build_pruner(config: RunConfig, example: Tensor) -> Masked | Structured:
    """What is cut: single weights, or channels found from the inputs ``example``."""
    node = config.pruner
    return _masked(node) if node.criterion == "none" else _structured(config, example)


def _masked(node: PrunerConfig) -> Masked:
    granularity = function("pruner.granularity", node.granularity, "refine.pruning.granularity")
    if node.granularity == "n_m":
        granularity = partial(granularity, n=node.n, m=node.m)
    allocation = function("pruner.allocation", node.allocation, ALLOCATIONS)
    return Masked(
        function("pruner.importance", node.importance, "refine.pruning.importance"),
        BoundedAllocation(allocation, layers_of(node), node.min_layer_density),
        granularity,
        downscale_factor=node.downscale_factor,
        scoring_batches=node.scoring_batches,
    )


def _structured(config: RunConfig, example: Tensor) -> Structured:
    node = config.pruner
    try:
        torch_pruning()
    except ValueError as error:
        raise SettingError("pruner", str(error)) from None
    return Structured(
        function("pruner.criterion", node.criterion, "refine.channels.criteria"),
        scope=node.allocation,
        unit=unit_of(config),
        protected=tuple(layers_of(node)),
        round_to=node.round_to,
        min_channels=node.min_channels,
        min_density=node.min_layer_density,
        steps=node.steps,
        downscale_factor=node.downscale_factor,
        scoring_batches=node.scoring_batches,
        example=example,
    )


def layers_of(node: PrunerConfig) -> dict[str, float]:
    """``pruner.layers``; layers of a Sequential have numbers for names."""
    return {str(glob): share for glob, share in (node.layers or {}).items()}


def kept_layers(node: PrunerConfig, model: nn.Module) -> list[str]:
    """The layers that ``pruner.layers`` says are never cut."""
    globs = [glob for glob, share in layers_of(node).items() if not share]
    names = [name for name, _ in model.named_modules() if name]
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]
