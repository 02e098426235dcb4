"""What state are the process's own generators of random numbers in?"""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def stream(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose: a generator of the same seed as another draws the same
    lots, and initial weights are lots too."""
    text = ",".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def random_state() -> dict[str, Any]:
    """Of Python, NumPy, torch and every GPU, as tensors, numbers and text."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Brings the generators to a ``random_state``."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():  # else it goes on on another machine
        torch.cuda.set_rng_state_all(state["cuda"])
