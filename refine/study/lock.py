"""Who else is at work in a directory? Told by locks that end with the process that holds them."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time is in this block; the others wait."""
    with path.open("ab") as file:
        while not _taken(file):
            time.sleep(0.02)
        yield


@contextmanager
def at_work(directory: Path, lock: Path) -> Iterator[str]:
    """A name for this process that is among ``living(directory)`` until the block or the process
    ends, however it ends. ``lock``: whoever calls ``living`` holds it."""
    name = uuid.uuid4().hex
    with locked(lock):
        directory.mkdir(exist_ok=True)
        file = (directory / name).open("ab")
        _taken(file)
    try:
        yield name
    finally:
        file.close()
        (directory / name).unlink(missing_ok=True)


def living(directory: Path) -> set[str]:
    """The names of the processes that are at work; files of those that ended are removed."""
    names = set()
    for path in directory.iterdir():
        with path.open("ab") as file:
            gone = _taken(file)
        if gone:
            path.unlink()
        else:
            names.add(path.name)
    return names


def _taken(file: IO) -> bool:
    """Takes the lock of ``file``, held until it is closed; False if another has it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True
