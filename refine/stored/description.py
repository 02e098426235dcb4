"""What does a network's file say about the network, beside its tensors?"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from refine.cache.network import ABOUT
from refine.errors import NetworkError
from refine.records.rows import NETWORK_FILE

KEY, VERSION = ABOUT, 1


@dataclass(frozen=True)
class Description:
    """How a network is built, and which inputs it takes.

    function, arguments: the function of refine.models that builds it, and its arguments; None where
    other code builds it, which ``load_model`` is then given. folded: batch norms that were folded,
    each with the layer that does their work. input_shape: (channels, height, width). mean,
    deviation: of each channel of the training images, as numbers from 0 to 1; inputs are normalised
    by them. classes: their names.
    """

    function: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()


def as_text(description: Description) -> str:
    """A description as JSON, as it stands in a file's header under ``refine``."""
    return json.dumps({"version": VERSION} | asdict(description), sort_keys=True)


def from_text(text: str) -> Description:
    """The description that ``as_text`` wrote. KeyError for what is missing; ValueError, TypeError,
    AttributeError, OverflowError or RecursionError for what is damaged."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is not a table")
    version = found.pop("version")
    if version != VERSION:
        raise ValueError(f"it has version {version}, and this program reads version {VERSION}")
    for name in ("input_shape", "mean", "deviation", "classes"):
        found[name] = tuple(found[name])
    description = Description(**found)
    numbers = (*description.input_shape, *description.mean, *description.deviation)
    if not all(isinstance(number, int | float) and isfinite(number) for number in numbers):
        raise ValueError("one of its numbers is not a finite number")
    if not all(isinstance(size, int) and size > 0 for size in description.input_shape):
        raise ValueError("the shape of its images is not made of whole numbers above 0")
    if (
        len(description.mean) != len(description.deviation)
        or min(description.deviation, default=1) <= 0
    ):
        raise ValueError("its images cannot be normalised by its mean and deviation")
    for mapping in (description.arguments, description.folded):
        if not isinstance(mapping, dict):
            raise ValueError("its arguments or its folded norms are not a table")
    return description


def beside(path: Path) -> Description | None:
    """The description that the run which left the file ``path`` has stored in the same directory;
    None if there is none. NetworkError if it is damaged."""
    file = path.with_name(NETWORK_FILE)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NetworkError(f"{file} cannot be read ({error})") from None
    try:
        return from_text(text)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise NetworkError(f"{file} is damaged: {reason:.100}") from None
