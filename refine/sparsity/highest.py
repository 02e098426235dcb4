"""Which of the cut weights score highest?"""

from collections.abc import Mapping
from math import ceil, sqrt

import torch
from torch import Tensor

SAMPLE = 65536  # scores that are looked at to guess where the threshold lies


def highest(
    scores: Mapping[str, Tensor], dead: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Marks the ``count`` highest of all the scores at ``dead`` positions, equal scores in the
    order of ``dead`` and of their index.

    scores, dead: tensors of one shape by name, ``dead`` boolean and what decides which names
        compete. ValueError where a score is missing or NaN, has another shape, or too few are dead.

    A sample tells which scores could be among the highest, and only those are ranked: this takes
    less time than one ``torch.topk``. A sample that misleads costs time, never the exact result.
    """
    for name, where in dead.items():
        if name not in scores or scores[name].shape != where.shape:
            raise ValueError(f"the scores do not fit the prunable tensor {name}")
        score = scores[name]
        # max() tells of a NaN without a pass that writes; most often there is none.
        if score.numel() and bool(score.max().isnan()) and bool(score[where].isnan().any()):
            raise ValueError("a score is NaN; the weights or the gradients are no longer finite")
    total = sum(int(where.sum()) for where in dead.values())
    if count > total:
        raise ValueError(f"{count} of {total} cut weights cannot be regrown")
    marked = {  # contiguous, whatever the layout of the weights
        name: torch.zeros(where.shape, dtype=torch.bool, device=where.device)
        for name, where in dead.items()
    }
    if count <= 0:
        return marked
    likely = {name: where.reshape(-1) for name, where in dead.items()}
    if (bound := _below_threshold(scores, dead, count / total)) is not None:
        above = {n: (scores[n].reshape(-1) >= bound) & where for n, where in likely.items()}
        if sum(int(part.sum()) for part in above.values()) >= count:
            likely = above
    indices = [where.nonzero().squeeze(1) for where in likely.values()]
    values = torch.cat(
        [scores[name].reshape(-1)[index] for name, index in zip(dead, indices, strict=True)]
    )
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    threshold = values.kthvalue(len(values) - count + 1).values
    chosen = values > threshold
    ties = (values == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.sum())]] = True
    parts = chosen.split([len(index) for index in indices])
    for name, index, part in zip(dead, indices, parts, strict=True):
        marked[name].view(-1)[index[part]] = True
    return marked


def _below_threshold(
    scores: Mapping[str, Tensor], dead: Mapping[str, Tensor], share: float
) -> float | None:
    """A score that the highest ``share`` very likely exceeds, and not much more than those."""
    step = max(1, sum(where.numel() for where in dead.values()) // SAMPLE) | 1
    sample = torch.cat(
        [scores[n].reshape(-1)[::step][where.reshape(-1)[::step]] for n, where in dead.items()]
    )
    expected = share * len(sample)
    rank = ceil(expected + 4 * sqrt(expected)) + 4
    return None if rank > len(sample) else float(sample.topk(rank).values[-1])
