"""Which processes are at work in a directory?

Each holds a lock on a file there, which the system releases when the process ends.
"""

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A block that one process at a time is in; the others wait."""
    with path.open("ab") as file:
        while not _taken(file):
            time.sleep(0.02)
        yield


@contextmanager
def at_work(directory: Path, lock: Path) -> Iterator[str]:
    """A name for this process, among ``living(directory)`` until the block or the process ends.

    ``lock``: the file that has to be ``locked`` to call ``living``.
    """
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
    """The names of the processes at work; the files of those that have ended are removed."""
    names = set()
    for path in directory.iterdir():
        with path.open("ab") as file:
            gone = _taken(file)
        if gone:
            path.unlink()
        else:
            names.add(path.name)
    return names


def _taken(file: IO[bytes]) -> bool:
    """Takes the lock of ``file``, held until it is closed; False if another has it."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
