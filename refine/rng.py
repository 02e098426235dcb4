"""Which seed does each purpose draw from, and what state are the random generators in?"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def stream(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose: with the same seed, two generators would draw the same
    numbers, and initial weights are random draws too."""
    text = ",".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's, torch's and every GPU's generator, as tensors, numbers and
    text."""
    algorithm, keys, *rest = np.random.get_state(legacy=True)
    cuda: list[torch.Tensor] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types for it
        cuda = torch.cuda.get_rng_state_all()
    return {
        "python": random.getstate(),
        "numpy": [algorithm, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Brings the generators to a ``random_state``."""
    random.setstate(state["python"])
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():  # else it is of another machine
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def same_random_state() -> Iterator[None]:
    """A block after which every generator is as it was before, whatever was drawn in it."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
