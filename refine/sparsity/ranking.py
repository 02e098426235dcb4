"""Which are the lowest of very many scores?

Exact, without sorting them: a sample brackets the threshold, a pass counts how many lie below, in
and above the bracket, and only the interval where the threshold turns out to be is ranked.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from math import ceil, floor, inf, isnan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]  # scores, and where they take part
FEW = 1 << 16  # so many are ranked whole


class Threshold(NamedTuple):
    """The ``count`` lowest are those below ``value``, and of the equal ones the first."""

    value: float
    below: list[int]  # of each part
    equal: list[int]

    def counts(self, count: int) -> list[int]:
        """How many of each part are among the ``count`` lowest; ties in the order of the parts."""
        left, taken = count - sum(self.below), []
        for below, equal in zip(self.below, self.equal, strict=True):
            taken.append(below + min(equal, left))
            left -= min(equal, left)
        return taken


def lowest(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """Marks the ``count`` lowest of the ``scores`` at positions that live; ties by index.

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


def threshold(parts: Sequence[Part], count: int) -> Threshold:
    """Where the ``count`` lowest (at least 1) of all scores that take part end; none is NaN.

    ValueError if fewer take part.
    """
    total = sum(survivors(alive) for _, alive in parts)
    if count > total:
        raise ValueError(f"{count} of {total} survivors cannot be cut")
    dtype = reduce(torch.promote_types, (scores.dtype for scores, _ in parts), torch.float32)
    low, high = bracket(parts, total, count, dtype)
    tallies = [tally(living(*part, dtype), low, high) for part in parts]
    under, up_to_low, under_high, up_to_high = (sum(each) for each in zip(*tallies, strict=True))
    for value, bound, start, end in ((low, 0, under, up_to_low), (high, 2, under_high, up_to_high)):
        if start < count <= end:
            return Threshold(
                value, [t[bound] for t in tallies], [t[bound + 1] - t[bound] for t in tallies]
            )
    if up_to_low < count <= under_high:
        below, above, limit = [t[1] for t in tallies], low, high
    elif count <= under:  # the sample was misleading
        below, above, limit = [0] * len(parts), None, low
    else:
        below, above, limit = [t[3] for t in tallies], high, None
    inside = [between(living(*part, dtype), above, limit) for part in parts]
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
    """Every how-manieth of ``total`` scores to look at: about 4 total^(2/3) of them, which is also
    how many a bracket of 4 standard deviations to each side then holds.

    It is odd so that no period of kernels and channels is met, and takes no random numbers.
    """
    return int(total ** (1 / 3) / 4) | 1


def sample(scores: Tensor, alive: Tensor, every: int, dtype: torch.dtype) -> Tensor:
    """Every ``every``-th of the scores, of those the ones that take part."""
    taken = scores.reshape(-1)[::every].to(dtype)
    return taken[alive.reshape(-1)[::every].to(taken.device)]


def living(scores: Tensor, alive: Tensor, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
    """The scores in the order of their index, in pieces that a processor's cache holds (a GPU
    takes them whole), NaN where they take no part: no comparison is true of it."""
    for piece, mask in pieces(scores, alive, dtype):
        yield piece if mask is None else nan_where(~mask, piece)


def ends(scores: Tensor, alive: Tensor) -> tuple[float, float]:
    """The lowest and the highest of 0 and the scores that take part; ValueError if one is NaN."""
    found = [
        torch.stack((piece if mask is None else zero_where(~mask, piece)).aminmax())
        for piece, mask in pieces(scores, alive)
    ]
    low, high = torch.cat(found).aminmax() if found else (0.0, 0.0)
    if isnan(low):
        raise ValueError("a score is NaN; the weights or the gradients are no longer finite")
    return min(0.0, float(low)), max(0.0, float(high))


def pieces(
    scores: Tensor, alive: Tensor, dtype: torch.dtype | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Scores in pieces, and where they take part; None for everywhere."""
    dtype = dtype or torch.promote_types(scores.dtype, torch.float32)
    flat, where = scores.reshape(-1), alive.to(scores.device).reshape(-1)
    size = 1 << 18 if scores.device.type == "cpu" else max(1, len(flat))
    whole = survivors(alive) == len(flat)
    for start in range(0, len(flat), size):
        mask = None if whole else where[start : start + size]
        yield flat[start : start + size].to(dtype), mask


def nan_where(mask: Tensor, values: Tensor) -> Tensor:
    """NaN in place of some of the values. On the bits, as are masks: 10 times faster than where."""
    return bits(values).bitwise_or(mask.to(bits(values).dtype).neg_()).view(values.dtype)


def zero_where(mask: Tensor, values: Tensor) -> Tensor:
    """0 in place of some of the values."""
    return bits(values).bitwise_and(mask.to(bits(values).dtype).sub_(1)).view(values.dtype)


def bits(values: Tensor) -> Tensor:
    return values.view(torch.int32 if values.element_size() == 4 else torch.int64)


def tally(pieces: Iterator[Tensor], low: float, high: float) -> tuple[int, int, int, int]:
    """How many are < low, <= low, < high and <= high."""
    bounds = ((torch.lt, low), (torch.le, low), (torch.lt, high), (torch.le, high))
    counts = [torch.stack([is_(p, end).count_nonzero() for is_, end in bounds]) for p in pieces]
    return tuple(torch.stack(counts).sum(0).tolist()) if counts else (0, 0, 0, 0)


def between(pieces: Iterator[Tensor], above: float | None, limit: float | None) -> Tensor:
    """Those that are > above and < limit, where these are given."""
    if above is None:
        return torch.cat([piece[piece < limit] for piece in pieces])
    if limit is None:
        return torch.cat([piece[piece > above] for piece in pieces])
    return torch.cat([piece[(piece > above) & (piece < limit)] for piece in pieces])


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors])


def survivors(alive: Tensor) -> int:
    """How many take part; three times faster than ``sum`` or more."""
    return int(alive.count_nonzero())


def prefix_with(mask: Tensor, count: int) -> int:
    """The length of the shortest start of a flat ``mask`` that holds ``count`` True."""
    start, end = 0, len(mask)  # mask[:end] holds enough, mask[:start] lacks ``count``
    while end - start > 1:
        middle = (start + end) // 2
        half = survivors(mask[start:middle])
        if half >= count:
            end = middle
        else:
            start, count = middle, count - half
    return end
