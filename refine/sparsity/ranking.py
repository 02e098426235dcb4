"""Which are the lowest, or the highest, of very many scores?

Exact, without sorting all: a sample shows between which scores the threshold almost surely lies,
and only the scores there are ranked. If the sample misleads, it costs time only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from math import ceil, floor, inf, isnan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]  # scores, and a mask of those that count
FEW = 1 << 16  # up to this many are ranked whole
SAMPLE = 1 << 16  # scores that ``highest`` looks at to guess where the threshold lies
NAN = "a score is NaN; the weights or the gradients are no longer finite"


class Threshold(NamedTuple):
    """The ``count`` lowest scores are those below ``value`` and the first of those equal to it.
    ``below`` and ``equal`` count both in each part."""

    value: float
    below: list[int]
    equal: list[int]

    def counts(self, count: int) -> list[int]:
        """How many of each part are among the ``count`` lowest; ties in the order of the parts."""
        left, taken = count - sum(self.below), []
        for below, equal in zip(self.below, self.equal, strict=True):
            taken.append(below + min(equal, left))
            left -= min(equal, left)
        return taken


def lowest(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """Marks the ``count`` lowest of the ``scores`` at positions that live; equal ones in the order
    of their index.

    ValueError if fewer live, or a living score is NaN.
    """
    ends(scores, alive)  # refuses NaN
    if count == 0:
        return torch.zeros_like(alive)
    found = threshold([(scores, alive)], count)
    ties = count - found.below[0]
    compare = torch.le if ties == found.equal[0] else torch.lt
    marked = torch.cat([compare(piece, found.value) for piece in living(scores, alive)])
    if 0 < ties < found.equal[0]:
        equal = torch.cat([piece == found.value for piece in living(scores, alive)])
        end = prefix_with(equal, ties)
        marked[:end] |= equal[:end]
    return torch.empty_like(alive).copy_(marked.view(alive.shape))


def highest(
    scores: Mapping[str, Tensor], dead: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Marks the ``count`` highest of all the scores at ``dead`` positions; equal ones in the order
    of ``dead`` and of their index.

    scores, dead: tensors of one shape by name. ``dead`` is boolean; only its names are ranked.
    ValueError where a score is missing or NaN or has another shape, or too few are dead.

    It takes a quarter of the time that ``lowest`` of the negated scores would.
    """
    for name, where in dead.items():
        if name not in scores or scores[name].shape != where.shape:
            raise ValueError(f"the scores do not fit the prunable tensor {name}")
        score = scores[name]
        # max() shows a NaN without writing a tensor; usually there is none.
        if score.numel() and bool(score.max().isnan()) and bool(score[where].isnan().any()):
            raise ValueError(NAN)
    total = sum(survivors(where) for where in dead.values())
    if count > total:
        raise ValueError(f"{count} of {total} cut weights cannot be regrown")
    marked = {  # contiguous, whatever the layout of the weights
        name: torch.zeros(where.shape, dtype=torch.bool, device=where.device)
        for name, where in dead.items()
    }
    if count <= 0:
        return marked
    parts = [(scores[name].reshape(-1), where.reshape(-1)) for name, where in dead.items()]
    likely = [where for _, where in parts]
    if (bound := below_highest(parts, count / total)) is not None:
        above = [(values >= bound) & where for values, where in parts]
        if sum(map(survivors, above)) >= count:
            likely = above
    indices = [where.nonzero().squeeze(1) for where in likely]
    values = torch.cat([part[index] for (part, _), index in zip(parts, indices, strict=True)])
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    limit = values.kthvalue(len(values) - count + 1).values
    chosen = values > limit
    ties = (values == limit).nonzero().squeeze(1)
    chosen[ties[: count - survivors(chosen)]] = True
    each = torch.split(chosen, [len(index) for index in indices])
    for marks, index, taken in zip(marked.values(), indices, each, strict=True):
        marks.view(-1)[index[taken]] = True
    return marked


def below_highest(parts: Sequence[Part], share: float) -> float | None:
    """A score that the highest ``share`` almost surely exceeds, and few others; None if the sample
    is too small."""
    every = max(1, sum(len(where) for _, where in parts) // SAMPLE) | 1
    taken = torch.cat([scores[::every][where[::every]] for scores, where in parts])
    expected = share * len(taken)
    rank = ceil(expected + 4 * sqrt(expected)) + 4
    return None if rank > len(taken) else float(taken.topk(rank).values[-1])


def threshold(parts: Sequence[Part], count: int) -> Threshold:
    """The threshold of the ``count`` lowest (at least 1) of all scores that count; none is NaN.

    ValueError if there are fewer.
    """
    total = sum(survivors(alive) for _, alive in parts)
    if count > total:
        raise ValueError(f"{count} of {total} survivors cannot be cut")
    dtype = reduce(torch.promote_types, (scores.dtype for scores, _ in parts), torch.float32)
    low, high = bracket(parts, total, count, dtype)
    tallies = [tally(living(*part, dtype), low, high) for part in parts]
    under_low, to_low, under_high, to_high = map(list, zip(*tallies, strict=True))
    for value, below, to in ((low, under_low, to_low), (high, under_high, to_high)):
        if sum(below) < count <= sum(to):
            return Threshold(value, below, [b - a for a, b in zip(below, to, strict=True)])
    where: Callable[[Tensor], Tensor]
    if sum(to_low) < count <= sum(under_high):
        below, where = to_low, lambda piece: (piece > low) & (piece < high)
    elif count <= sum(under_low):  # the sample was misleading
        below, where = [0] * len(parts), lambda piece: piece < low
    else:
        below, where = to_high, lambda piece: piece > high
    inside = [torch.cat([p[where(p)] for p in living(*part, dtype)]) for part in parts]
    value = float(joined(inside).kthvalue(count - sum(below)).values)
    return Threshold(
        value,
        [so_far + survivors(rest < value) for so_far, rest in zip(below, inside, strict=True)],
        [survivors(rest == value) for rest in inside],
    )


def bracket(
    parts: Sequence[Part], total: int, count: int, dtype: torch.dtype
) -> tuple[float, float]:
    """Two scores between which the ``count``-th lowest of ``total`` almost surely lies."""
    if total <= FEW:
        return -inf, inf
    taken = joined([sample(*part, stride(total), dtype) for part in parts])
    middle, margin = count / total * len(taken), 4 * sqrt(len(taken))
    low, high = floor(middle - margin), ceil(middle + margin)
    return (
        float(taken.kthvalue(low).values) if low >= 1 else -inf,
        float(taken.kthvalue(high).values) if high <= len(taken) else inf,
    )


def stride(total: int) -> int:
    """The distance between the scores of a sample. The sample then has about 4 total^(2/3) scores,
    and so does a bracket of 4 standard deviations to each side.

    It is odd, so that it does not align with kernels and channels, and needs no random numbers.
    """
    return int(total ** (1 / 3) / 4) | 1


def sample(scores: Tensor, alive: Tensor, every: int, dtype: torch.dtype) -> Tensor:
    """Those of every ``every``-th score that count."""
    taken = scores.reshape(-1)[::every].to(dtype)
    return taken[alive.reshape(-1)[::every].to(taken.device)]


def living(scores: Tensor, alive: Tensor, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
    """The scores in the order of their index, NaN where they do not count, so that no comparison
    is true there. They come in pieces that fit into a processor's cache, or whole on a GPU."""
    for piece, mask in pieces(scores, alive, dtype):
        yield piece if mask is None else nan_where(~mask, piece)


def ends(scores: Tensor, alive: Tensor) -> tuple[float, float]:
    """The lowest and the highest of 0 and the scores that count; ValueError if one is NaN."""
    found = [
        torch.stack((piece if mask is None else zero_where(~mask, piece)).aminmax())
        for piece, mask in pieces(scores, alive)
    ]
    low, high = torch.cat(found).aminmax() if found else (0.0, 0.0)
    if isnan(low):
        raise ValueError(NAN)
    return min(0.0, float(low)), max(0.0, float(high))


def pieces(
    scores: Tensor, alive: Tensor, dtype: torch.dtype | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Scores in pieces, each with a mask of those that count; None for all."""
    dtype = dtype or torch.promote_types(scores.dtype, torch.float32)
    flat, where = scores.reshape(-1), alive.to(scores.device).reshape(-1)
    size = 1 << 18 if scores.device.type == "cpu" else max(1, len(flat))
    whole = survivors(alive) == len(flat)
    for start in range(0, len(flat), size):
        mask = None if whole else where[start : start + size]
        yield flat[start : start + size].to(dtype), mask


def nan_where(mask: Tensor, values: Tensor) -> Tensor:
    """NaN in place of the values at ``mask``. It works on the bits: 10 times faster than where."""
    return bits(values).bitwise_or(mask.to(bits(values).dtype).neg_()).view(values.dtype)


def zero_where(mask: Tensor, values: Tensor) -> Tensor:
    """0 in place of the values at ``mask``."""
    return bits(values).bitwise_and(mask.to(bits(values).dtype).sub_(1)).view(values.dtype)


def bits(values: Tensor) -> Tensor:
    """The same memory as integers."""
    return values.view(torch.int32 if values.element_size() == 4 else torch.int64)


def tally(pieces: Iterator[Tensor], low: float, high: float) -> list[int]:
    """How many are < low, <= low, < high and <= high."""
    bounds = ((torch.lt, low), (torch.le, low), (torch.lt, high), (torch.le, high))
    counts = [torch.stack([is_(p, end).count_nonzero() for is_, end in bounds]) for p in pieces]
    total: list[int] = torch.stack(counts).sum(0).tolist() if counts else [0] * len(bounds)
    return total


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """All of them end to end, on the first one's device."""
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors])


def survivors(alive: Tensor) -> int:
    """How many are True; at least three times faster than ``sum``."""
    return int(alive.count_nonzero())


def prefix_with(mask: Tensor, count: int) -> int:
    """The length of the shortest start of a flat ``mask`` that holds ``count`` True."""
    start, end = 0, len(mask)  # mask[:end] has enough; after mask[:start], ``count`` are missing
    while end - start > 1:
        middle = (start + end) // 2
        half = survivors(mask[start:middle])
        if half >= count:
            end = middle
        else:
            start, count = middle, count - half
    return end
