"""Is a process running in a run's directory?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from refine.records.rows import LOCK_FILE


@contextmanager
def held(directory: Path) -> Iterator[bool]:
    """Holds the lock of a run's directory, as the run itself does; yields whether it could."""
    lock = FileLock(directory / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def running(directory: Path) -> bool:
    """Whether a process is running there. No, if it cannot be asked because the directory is
    another user's."""
    lock = directory / LOCK_FILE
    if not lock.is_file() or not os.access(lock, os.W_OK):
        return False
    with held(directory) as free:
        return not free
