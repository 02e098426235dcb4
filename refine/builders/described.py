"""What does a run store about its network, and which data fit it again?"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import refine.models as models
from refine.builders.model import arguments_of
from refine.builders.saved import saved
from refine.config.schema import RunConfig
from refine.datasets.course import Course
from refine.datasets.images import Normalization
from refine.datasets.prepare import Data
from refine.errors import NetworkError, SettingError
from refine.records.rows import MODEL_FILE
from refine.stored.description import Description, beside

log = logging.getLogger("refine")
NAMED = 4  # as many classes that differ are named


def described(node: dict[str, Any], data: Data) -> Description:
    """What is stored about a network of a ``model`` node that takes images like those of
    ``data``."""
    target = node["_target_"]
    name = target.rpartition(".")[2]
    ours = getattr(models, name, None) is not None and target == f"refine.models.{name}"
    return Description(
        function=name if ours else None,
        arguments=arguments_of(node, data) if ours else {},
        input_shape=tuple(data.image_shape),
        mean=tuple((data.normalization.mean.double() / 255).tolist()),
        deviation=tuple((data.normalization.std.double() / 255).tolist()),
        classes=tuple(map(str, data.classes)),
    )


def normalized_as(data: Data, description: Description | None, where: object) -> Data:
    """The data, normalised as the described network's training images were. Without a stored
    normalisation, as in runs of 0.1.0, they stay as they are, and a line says so; ``where``: what
    holds the network."""
    if description is None or not description.mean:
        log.warning("%s stores no normalisation: that of the given data is used", where)
        return data
    device = data.normalization.mean.device
    mean, std = (
        (torch.tensor(numbers, dtype=torch.float64) * 255).float().to(device)
        for numbers in (description.mean, description.deviation)
    )
    if mean.shape != data.normalization.mean.shape:
        raise NetworkError(f"{where} takes images of {len(mean)} channels")
    return replace(data, normalization=Normalization(mean, std))


def as_trained(config: RunConfig, course: Course, directory: Path | None) -> Course:
    """The course with its images normalised as the network needs it: the one that an earlier part
    of the run has left in ``directory``, else the one that ``start_from`` names.

    SettingError if that network tells other classes apart, unless it gets a new head.
    """
    if directory is not None:
        setting, where, remedy = "resume", directory, "bring back the data that it was trained on"
        try:
            description = beside(directory / MODEL_FILE)
        except NetworkError as error:
            raise SettingError(setting, str(error)) from None
    elif config.start_from is not None:
        setting, where = "start_from", Path(config.start_from)
        remedy = "start_from_head=new gives it a new head for them"
        description = saved(setting, config.start_from).description
    else:
        return course
    if directory is not None or config.start_from_head == "keep":
        check_classes(setting, where, description, course.tasks[0], remedy)
    try:
        same = normalized_as(course.tasks[0], description, f"{setting}: {where}").normalization
    except NetworkError as error:
        raise SettingError(setting, str(error)) from None
    return replace(course, tasks=[replace(task, normalization=same) for task in course.tasks])


def check_classes(
    setting: str, where: object, description: Description | None, data: Data, remedy: str
) -> None:
    """SettingError, which names the classes that differ, if the described network tells other
    classes apart than those of ``data``."""
    if description is None or not description.classes:
        return
    if differing := class_difference(description.classes, data.classes):
        raise SettingError(setting, f"{where} is of other classes: {differing}; {remedy}")


def class_difference(theirs: Sequence[object], own: Sequence[object]) -> str:
    """How the classes of a network and of data differ; empty if they are the same."""
    trained, given = [*map(str, theirs)], [*map(str, own)]
    if trained == given:
        return ""
    if sorted(trained) == sorted(given):
        return f"the data has them in another order, {_some(given)}"
    gone = [name for name in trained if name not in given]
    new = [name for name in given if name not in trained]
    parts = [f"{len(trained):,} in the file, {len(given):,} in the data"]
    parts += [f"only the file has {_some(gone)}"] if gone else []
    parts += [f"only the data has {_some(new)}"] if new else []
    return ", ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(f"{name:.40}" for name in names[:NAMED]) + more
