"""Which refinement does a configuration describe?"""

import logging
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from refine.builders.pruner import build_pruner
from refine.builders.regrowth import build_regrowth
from refine.builders.replay import build_replay
from refine.cache import Cache
from refine.channels.plan import Structured
from refine.config.schema import RunConfig
from refine.datasets.course import Course
from refine.errors import SettingError
from refine.pruning.allocation import BoundedAllocation
from refine.pruning.cut import MaskedCut
from refine.records.rows import EpisodeRow
from refine.refinement import RuntimeRefinement
from refine.replay import Replayed
from refine.training.position import Position
from refine.training.step import Stepper

log = logging.getLogger("refine")


def build_refinement(
    config: RunConfig,
    stepper: Stepper,
    course: Course,
    position: Position,
    cache_directory: Path,
    check: Callable[[], None],
    on_episode: Callable[[EpisodeRow], None],
) -> RuntimeRefinement:
    """The refinement whose replay takes the steps of ``stepper``; ``check`` is called after each,
    ``on_episode`` after every trial of a controller."""
    model = stepper.model

    def replay_step(batch: Replayed) -> Tensor:
        loss, _ = stepper(*batch)
        check()
        return loss

    pruner = build_pruner(config, course.example)
    cache = _cache(config.cache.kind, cache_directory)
    regrowth = build_regrowth(config.regrowth, config.seed, model, cache, on_episode)
    replay = build_replay(config.replay, config.seed, model, course, position, stepper.precision)
    try:
        refinement = RuntimeRefinement(
            model,
            pruner,
            regrowth=regrowth,
            replay=replay,
            distillation=stepper.distillation,
            cache=cache,
            regularizer=stepper.regularizer,
            optimizer=replay_step,
        )
    except ValueError as error:
        raise SettingError("model", str(error)) from error
    refinement.atomic = False  # a run goes back to its checkpoint instead
    refinement.parts.watch.know(stepper.optimizer)
    if isinstance(refinement.method, MaskedCut) and not isinstance(pruner, Structured):
        _check_layers(config, refinement.method, pruner.allocation)
    return refinement


def _cache(kind: str, directory: Path) -> Cache | None:
    """The cache, if there is one."""
    return None if kind == "none" else Cache(directory if kind == "disk" else None)


def _check_layers(
    config: RunConfig, method: MaskedCut, allocation: Callable[..., dict[str, int]]
) -> None:
    if isinstance(allocation, BoundedAllocation):
        try:
            allocation.own(method.masks)
        except ValueError as error:
            raise SettingError("pruner.layers", str(error)) from error
    for name in method.granularity.left_out:
        log.info("pruner.granularity=%s leaves %s dense", config.pruner.granularity, name)
