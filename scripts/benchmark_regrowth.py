"""How long does it take to choose what regrows, against one ``torch.topk`` over all scores?

VGG16 at 99 % sparsity, 147,148 of its 14.7 million weights by a global ranking of scores that are
there already: allocation and marks, as ``Regrowth`` does it. Medians of alternating rounds.
"""

import statistics
import time
from collections.abc import Callable

import torch

from refine.models import vgg16
from refine.regrowth.allocation import Candidates, global_
from refine.sparsity.masks import Masks
from refine.sparsity.ranking import highest

COUNT, ROUNDS = 147_148, 7


def measure() -> dict[str, float]:
    """Median seconds of ``topk`` and of ``choice``."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: mask.shape for name, mask in Masks(vgg16()).items()}
    masks = {n: torch.rand(shape, generator=generator) > 0.99 for n, shape in shapes.items()}
    scores = {  # of the spread that squares of products have
        name: torch.randn(shape, generator=generator).mul_(0.1 + torch.rand(()).item()).square()
        for name, shape in shapes.items()
    }
    every = torch.cat([score.flatten() for score in scores.values()])

    def choice() -> None:
        counts = global_(Candidates(scores, masks, COUNT, {}, dict, float))
        for name, count in counts.items():
            highest(scores, {name: ~masks[name]}, count)

    seconds: dict[str, list[float]] = {"topk": [], "choice": []}
    for _ in range(ROUNDS):
        seconds["topk"].append(_timed(lambda: every.topk(COUNT)))
        seconds["choice"].append(_timed(choice))
    return {name: statistics.median(each) for name, each in seconds.items()}


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    found = measure()
    print(
        f"topk {found['topk']:.4f} s, choice {found['choice']:.4f} s, "
        f"ratio {found['choice'] / found['topk']:.2f}"
    )
