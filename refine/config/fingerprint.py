"""Which configurations make the same run?"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from refine.renamed import current

# Where and how a run is made and who is told of it; not what it is.
APART = (
    "output_dir", "dataset.root", "device", "save_model", "resume", "checkpoint", "sweep",
    "tracker",
)  # fmt: skip

# What a pruner of channels can be told to reach: of each run at most one.
TARGETS = ("target_speedup", "target_macs", "target_parameters")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved values of ``config`` as plain dictionaries and lists."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def within(name: str, names: Iterable[str]) -> bool:
    """Whether the setting ``name`` is one of ``names``, or stands below one."""
    return any(f"{name}.".startswith(f"{entry}.") for entry in names)


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a nested dictionary with its dotted name; ``model`` is the present import
    path of ``model._target_``."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.removesuffix("."), current(value) if isinstance(value, str) else value
        else:
            yield f"{prefix}{key}", value


DOWNLOADED = tuple(
    f"refine.datasets.{name}" for name in ("digits", "cifar10", "cifar100", "fashion_mnist")
)


def fingerprint(config: DictConfig) -> str:
    """Eight hexadecimal digits that two configurations share if they make the same run."""
    values = {name: value for name, value in flat(plain(config)) if not within(name, APART)}
    if current(config.dataset._target_) not in DOWNLOADED:  # elsewhere there are other pictures
        values["dataset.root"] = str(Path(config.dataset.root).expanduser().absolute())
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
