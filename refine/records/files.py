"""How is a file written whole or not at all?"""

import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside ``path`` to write to; once on disk, it is renamed to ``path``.

    A reader sees the old file or the new one, never a part; on an error the old one stays. The new
    name is on disk too when this returns. The file gets the permissions of any new file, also from
    a library that makes its own private.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _naming(path):
            part.touch()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    if os.name == "posix":  # elsewhere a directory cannot be opened
        entry = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file's name to an OSError, which lacks it when the disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def append_text(path: Path, text: str) -> None:
    """Appends ``text`` to ``path``, all of it or, on an error, none; then it is on the disk."""
    with _naming(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            left = memoryview(text.encode())
            while left:  # a nearly full disk first writes a part and then fails
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, size)
            if not size:
                path.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path``, whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON, whole or not at all, with null for NaN and infinity, which JSON
    does not know."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A block that Ctrl-C does not interrupt: it takes effect at the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    pressed: list[tuple[int, FrameType | None]] = []
    usual = signal.signal(signal.SIGINT, lambda *event: pressed.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if pressed and callable(usual):
        usual(*pressed[0])
