"""Are these the same training data as before?"""

import hashlib

import torch

from refine.datasets.course import Course
from refine.errors import SettingError

SAMPLED = 1 << 20  # bytes of pictures that are looked at, spread over all


def data_identity(course: Course) -> str:
    """A digest of the training images' number, shape and labels, of the classes' names, and of a
    sample of their pixels."""
    digest = hashlib.sha256()
    for task in course.tasks:
        pixels, labels = task.train.pixels, task.train.labels
        digest.update(str((tuple(pixels.shape), list(task.classes))).encode())
        digest.update(labels.cpu().numpy().tobytes())
        flat = pixels.reshape(-1)
        step = max(1, len(flat) // SAMPLED) | 1  # odd, so that all channels come
        digest.update(flat[::step].to(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def check_same(before: str | None, now: str) -> None:
    """SettingError if a run began with other training data; None: it did not say with which."""
    if before not in (None, now):
        problem = "the training data are others than those that the run began with; "
        raise SettingError("resume", problem + "restore them, or begin a run with start_from=")
