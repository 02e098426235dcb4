"""How are several files written all or none?"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


@contextmanager
def all_or_none(directory: Path) -> Iterator[Path]:
    """Yields a new directory beside ``directory`` to write to; at the end of the block its files
    are moved into ``directory``, which is made if need be. On an error nothing is left.

    What a process that was killed has left beside ``directory`` is removed.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    for left in directory.parent.glob(f".{escape(directory.name)}.*.part"):
        if _has_ended(left.suffixes[-2].removeprefix(".")):
            shutil.rmtree(left, ignore_errors=True)
    part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        if not directory.exists():
            part.rename(directory)
            return
        for file in sorted(part.iterdir()):
            file.replace(directory / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _has_ended(process: str) -> bool:
    if not process.isdecimal() or os.name != "posix":  # elsewhere the signal 0 is one
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
