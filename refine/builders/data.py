"""Which images does a configuration name, and how are they split into tasks?"""

import torch

from refine.config.instantiate import build, function
from refine.config.schema import DatasetConfig, RunConfig
from refine.datasets.course import Course
from refine.datasets.images import RawData
from refine.datasets.prepare import Data, prepare
from refine.errors import FieldError, SettingError
from refine.rng import stream

# Settings of the runner; a ``dataset`` node's others are arguments of its function.
OWN = ("subset_size", "validation_size", "test_size", "augment", "split", "tasks")


def build_data(node: DatasetConfig, seed: int, device: torch.device) -> Data:
    """The images of a ``dataset`` node, on the device."""
    raw = build("dataset", {name: value for name, value in vars(node).items() if name not in OWN})
    if not isinstance(raw, RawData):
        problem = f"{node._target_} returned no RawData: {raw!r:.60}"
        raise SettingError("dataset._target_", problem)
    if len(raw.classes) < 2:
        raise SettingError("dataset", f"has the one class {raw.classes}; there is nothing to learn")
    augment = function("dataset.augment", node.augment, "refine.datasets.augmentation")
    sizes = {name: getattr(node, name) for name in ("subset_size", "validation_size", "test_size")}
    try:
        return prepare(raw, augment, seed, device, **sizes)
    except FieldError as error:
        raise SettingError(f"dataset.{error.field}", error.problem) from None


def build_course(config: RunConfig, data: Data) -> Course:
    """The tasks into which ``dataset.split`` divides the data, and when each is trained on."""
    split = function("dataset.split", config.dataset.split, "refine.datasets.course")
    try:
        tasks = split(data, config.dataset.tasks, stream(config.seed, "tasks"))
    except FieldError as error:
        raise SettingError(f"dataset.{error.field}", error.problem) from None
    try:
        return Course(tasks, config.trainer.epochs, config.trainer.batch_size)
    except FieldError as error:
        raise SettingError(f"trainer.{error.field}", error.problem) from None
