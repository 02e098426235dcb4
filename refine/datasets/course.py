"""Which tasks is a data set divided into, and which of them is trained on in which epoch?

The public functions are ``(data, tasks, seed) -> list[Data]``: the data set as a stream of that
many tasks (None: the usual number), in the order in which they are learned. ``seed`` determines
what is drawn at random. Each task is a Data with the classes of the whole, so that one head
classifies the images of all tasks and is never told which task an image belongs to. FieldError if
the data set cannot be divided so.

``Course`` says which task is trained on in which epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from refine.datasets import augmentation
from refine.datasets.images import Images, Normalization
from refine.datasets.prepare import Data
from refine.errors import FieldError

__all__ = ["classes", "none", "permuted"]

PERMUTED_TASKS = 5


def none(data: Data, tasks: int | None, seed: int) -> list[Data]:
    """One task: the data as it is."""
    if tasks not in (None, 1):
        problem = f"the data as it is is one task, not {tasks}; choose classes or permuted"
        raise FieldError("tasks", problem)
    return [data]


def classes(data: Data, tasks: int | None, seed: int) -> list[Data]:
    """The classes in their order, two for each task, or divided evenly among ``tasks``.

    The division of split MNIST (Zenke et al. 2017) with one head for all: class-incremental
    learning (van de Ven and Tolias 2019).
    """
    count = len(data.classes)
    tasks = (count + 1) // 2 if tasks is None else _at_least_one(tasks)
    if tasks > count:
        raise FieldError("tasks", f"{count} classes are too few for {tasks} tasks")
    stream = []
    for labels in torch.arange(count).tensor_split(tasks):
        names = [data.classes[label] for label in labels]
        stream.append(_each_part(data, partial(_of, labels=labels)))
        _check_parts(stream[-1], names)
    # In the first task the others have not been seen, so its moments normalise all of them.
    normalization = Normalization.of(stream[0].train)
    return [replace(task, normalization=normalization) for task in stream]


def permuted(data: Data, tasks: int | None, seed: int) -> list[Data]:
    """The data as it is, then with its pixels in another order for each further task; 5 by default.

    One order is drawn for each task and used for all of its images. The channels of a pixel stay
    together, so that the moments do not change (Goodfellow et al. 2013, Kirkpatrick et al. 2017).
    A longer stream begins with the tasks of a shorter one.
    """
    tasks = PERMUTED_TASKS if tasks is None else _at_least_one(tasks)
    if data.augment is not augmentation.none:
        problem = "permuted pixels have no neighbours to shift or mirror; set augment=none"
        raise FieldError("augment", problem)
    _check_parts(data, data.classes)
    draw = torch.Generator().manual_seed(seed)
    _, height, width = data.image_shape
    orders = [torch.randperm(height * width, generator=draw) for _ in range(tasks - 1)]
    return [data, *(_each_part(data, partial(_in, order=order)) for order in orders)]


@dataclass(frozen=True)
class Course:
    """Which task is trained on in which epoch: one after the other, with as many epochs each.

    Epochs count from 1, tasks from 0; a training step takes ``batch_size`` images. FieldError
    unless ``epochs`` divide evenly among the tasks.
    """

    tasks: list[Data]
    epochs: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.epochs % len(self.tasks):
            problem = f"{self.epochs} must be a multiple of the {len(self.tasks)} tasks"
            raise FieldError("epochs", problem)

    @property
    def epochs_a_task(self) -> int:
        """The number of epochs that each task is trained for."""
        return self.epochs // len(self.tasks)

    def task(self, epoch: int) -> int:
        """The task of an epoch; ValueError if the course has no such epoch."""
        return range(1, self.epochs + 1).index(epoch) // self.epochs_a_task

    def begins(self, epoch: int) -> bool:
        """Whether a task begins with this epoch."""
        return epoch in range(1, self.epochs + 1, self.epochs_a_task)

    def ends(self, epoch: int) -> bool:
        """Whether a task ends with this epoch; False for epoch 0."""
        return epoch in range(self.epochs_a_task, self.epochs + 1, self.epochs_a_task)

    def steps(self, epoch: int) -> int:
        """Training steps of this epoch."""
        return self._steps(self.tasks[self.task(epoch)])

    def steps_before(self, epoch: int) -> int:
        """Training steps of all epochs before this one, which may be the one after the last."""
        done, begun = divmod(epoch - 1, self.epochs_a_task)
        lengths = [self._steps(task) for task in self.tasks[: done + 1]]
        return self.epochs_a_task * sum(lengths[:done]) + begun * sum(lengths[done:])

    @property
    def example(self) -> torch.Tensor:
        """Two images as the network is given them, (2, channels, height, width)."""
        task = self.tasks[0]
        return next(iter(task.plain(task.train[:2])))[0]

    @property
    def total_steps(self) -> int:
        """Training steps of the whole course."""
        return self.steps_before(self.epochs + 1)

    def _steps(self, task: Data) -> int:
        return len(task.training(self.batch_size, torch.Generator()))  # as many with any generator


def _at_least_one(tasks: int) -> int:
    if tasks < 1:
        raise FieldError("tasks", f"a stream has one task or more, not {tasks}")
    return tasks


def _each_part(data: Data, change: Callable[[Images], Images]) -> Data:
    """The same change made to the training, validation and test images."""
    validation = data.validation and change(data.validation)
    return replace(data, train=change(data.train), validation=validation, test=change(data.test))


def _of(images: Images, labels: torch.Tensor) -> Images:
    """The images with one of the ``labels``."""
    return images[torch.isin(images.labels, labels.to(images.labels.device))]


def _in(images: Images, order: torch.Tensor) -> Images:
    """The images with their pixels, row by row, in another ``order``."""
    pixels = images.pixels.flatten(1, 2)[:, order.to(images.pixels.device)]
    return Images(pixels.view(images.pixels.shape), images.labels)


def _check_parts(task: Data, names: list[str]) -> None:
    """FieldError if the training, validation or test part has no image of these classes."""
    for part in ("train", "validation", "test"):
        images = getattr(task, part)
        if images is not None and not len(images):
            what = {"train": "training"}.get(part, part)
            field = "validation_size" if part == "validation" else "tasks"
            problem = f"there are no {what} images of the classes {', '.join(names)}"
            raise FieldError(field, problem)
