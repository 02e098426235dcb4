"""What are the cache's files called, and what do they hold?

A file is a safetensors file compressed by zlib: nothing in it is executed, and zlib's checksum
shows damage.
"""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

DIRECTORY = "cache"  # in a run's directory
CUT, NETWORK, ENDING = "cut", "network", ".safetensors.z"
VALUES = "values/"  # before a tensor's name: the values at its marked positions
# A few bytes can decompress to very many. A file may decompress to 64 MiB plus 32 times its size;
# what would take more, such as a network of zeros, is written uncompressed.
FREE_BYTES, TIMES = 1 << 26, 32
HEADER_BYTES = 100_000_000  # the most that safetensors reads itself


class Damaged(ValueError):
    """A file that cannot be read, and why."""


def path_of(directory: Path, kind: str, number: int) -> Path:
    """Where the weights that the cycle ``number`` cut are kept (kind CUT), or the network after
    ``number`` cycles (kind NETWORK)."""
    return directory / f"{kind}-{number}{ENDING}"


def kept(directory: Path, kind: str) -> dict[int, Path]:
    """The files of ``kind`` (CUT or NETWORK) that are there, by their number."""
    form = re.compile(rf"{kind}-(0|[1-9]\d*){re.escape(ENDING)}")
    names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    numbers = sorted(int(found[1]) for name in names if (found := form.fullmatch(name)))
    return {number: path_of(directory, kind, number) for number in numbers}


def compressed(content: bytes) -> bytes:
    """``content`` compressed, or uncompressed in zlib's format if it would expand too much.

    Measured on 14 million weights of which the lowest 15 % are cut: Z_RLE (runs and Huffman codes,
    no search for repetitions) makes 8.83 MB of 10.15 MB in 0.09 s; levels 1 and 6 as usual make
    8.98 and 8.96 MB in 0.26 and 0.55 s. Of the values 8 % goes, as mantissas are noise; of the
    bitmap of their positions 38 %, which is its entropy.
    """
    coder = zlib.compressobj(1, strategy=zlib.Z_RLE)
    small = coder.compress(content) + coder.flush()
    return small if len(content) <= _most(small) else zlib.compress(content, 0)


def decompressed(content: bytes) -> bytes:
    """What ``compressed`` was given; Damaged if the file is not as it was written."""
    most = _most(content)
    coder = zlib.decompressobj()
    try:
        whole = coder.decompress(content, most + 1)
    except zlib.error as error:
        raise Damaged(f"damaged ({error})") from None
    if len(whole) > most:
        raise Damaged(f"damaged: {len(content)} bytes that stand for more than {most}")
    if not coder.eof or coder.unused_data:
        raise Damaged("damaged: it is cut short, or something follows it")
    return whole


def header(content: bytes) -> dict[str, Any]:
    """What the header of a compressed file says of its tensors; Damaged if it has none."""
    coder = zlib.decompressobj()
    try:
        size = int.from_bytes(coder.decompress(content, 8), "little")
        if size > min(HEADER_BYTES, _most(content)):
            raise ValueError("a head of that size")
        text = coder.decompress(coder.unconsumed_tail, size) if size else b""
        found = json.loads(text)
    except (zlib.error, ValueError) as error:
        raise Damaged(f"damaged ({error})") from None
    if not isinstance(found, dict):
        raise Damaged("damaged: its head is of something else")
    return found


def marked(path: Path) -> int:
    """How many weights a file of the cache holds; only its header is read."""
    with named(path):
        try:
            tensors = header(path.read_bytes()).items()
            return sum(prod(entry["shape"]) for name, entry in tensors if name.startswith(VALUES))
        except (KeyError, TypeError):
            raise Damaged("damaged: its head is of something else") from None


@contextmanager
def named(place: object) -> Iterator[None]:
    """Adds ``place`` to the message if something is damaged or missing."""
    try:
        yield
    except Damaged as reason:
        raise Damaged(f"{place} is {reason}") from None
    except FileNotFoundError:
        raise Damaged(f"{place} is missing") from None


def _most(content: bytes) -> int:
    return FREE_BYTES + TIMES * len(content)
