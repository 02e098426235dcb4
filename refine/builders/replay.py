"""Which replay does ``replay`` describe?"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from refine.batches import Batch
from refine.config.instantiate import function
from refine.config.schema import ReplayConfig
from refine.datasets.course import Course
from refine.datasets.images import Loader
from refine.errors import SettingError
from refine.replay import Generative, Replay, ReplaySource, Training
from refine.rng import stream
from refine.training.device import Precision
from refine.training.position import Position


@dataclass(frozen=True)
class TaskAtHand:
    """Training batches of the present task, in an order of their own."""

    course: Course
    position: Position
    batch_size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[Batch]:
        task = self.course.tasks[self.position.task]
        return iter(task.training(self.batch_size, self.generator))


def build_replay(
    node: ReplayConfig,
    seed: int,
    model: nn.Module,
    course: Course,
    position: Position,
    precision: Precision,
) -> ReplaySource:
    """The memory that ``replay`` describes."""
    if node.storage == "training":
        draw = torch.Generator().manual_seed(stream(seed, "replay of training batches"))
        return Training(TaskAtHand(course, position, node.batch_size, draw), node.steps)
    if node.storage == "generative":
        return Generative(
            node.steps,
            node.batch_size,
            len(course.tasks[0].classes),
            hidden=node.vae.hidden,
            latent=node.vae.latent,
            training_steps=node.vae.training_steps,
            learning_rate=node.vae.learning_rate,
            seed=seed,
        )
    make = partial(
        Replay,
        function("replay.selection", node.selection, "refine.replay.priority"),
        function("replay.storage", node.storage, "refine.replay.storage"),
        function("replay.sampling", node.sampling, "refine.replay.sampling"),
        node.buffer_size,
        batch_size=node.batch_size,
        alpha=node.alpha,
        beta=node.beta,
        seed=seed,
        autocast=precision.autocast,
    )
    if node.steps:
        try:  # so that it fails now rather than in the first cycle
            next(make(steps=1).batches(model, _two_images(course)))
        except Exception as error:  # also what a user's own selection raises
            raise SettingError("replay", str(error)) from error
    return make(steps=node.steps)


def _two_images(course: Course) -> Loader:
    return course.tasks[0].plain(course.tasks[0].train[:2])
