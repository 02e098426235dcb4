"""Which configurations make the same run?"""

import hashlib
import json
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from refine.renamed import current
from refine.setting import APART, flat, path_of, within


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved values of ``config`` as plain dictionaries and lists."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


DOWNLOADED = tuple(
    f"refine.datasets.{name}" for name in ("digits", "cifar10", "cifar100", "fashion_mnist")
)


def fingerprint(config: DictConfig) -> str:
    """Eight hexadecimal digits that two configurations share if they make the same run."""
    values = {name: value for name, value in flat(plain(config)) if not within(name, APART)}
    if current(config.dataset._target_) not in DOWNLOADED:  # its images depend on the directory
        values["dataset.root"] = str(path_of("dataset.root", config.dataset.root).absolute())
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
