"""How many weights does each tensor lose when all are ranked by their LAMP score?

With the scores s of a layer's survivors in ascending order, LAMP(u) = s_u^2 / (the sum of s_v^2
over v >= u); one ranking then holds all layers (Lee et al. 2021, arXiv:2010.07611). LAMP rises with
s, so what a layer loses are its lowest scores up to some rank. As in ``refine.sparsity.ranking``, a
sample brackets that rank, and only the scores inside the bracket are sorted.
"""

from collections.abc import Sequence
from math import ceil, floor, inf, isfinite, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from refine.sparsity import ranking
from refine.sparsity.ranking import Part


class Layer(NamedTuple):
    """A layer split by a bracket: how many scores are below, the LAMP scores of those inside, and
    how many are above."""

    below: int
    inside: Tensor
    above: int


def lamp_counts(parts: Sequence[Part], count: int) -> list[int]:
    """How many of each part are among the ``count`` that score lowest; never a part's highest.

    Scores may be negative: those of such a layer are first raised by its lowest. ValueError if a
    score is NaN or infinite.
    """
    shifts = [shift(part) for part in parts]
    sizes = [ranking.survivors(alive) for _, alive in parts]
    count = min(count, sum(max(0, size - 1) for size in sizes))
    if count == 0:
        return [0] * len(parts)
    zeros = [
        zero_count(part, shift, size)
        for part, shift, size in zip(parts, shifts, sizes, strict=True)
    ]
    if count <= sum(zeros):  # all of them score 0, so the first ones go
        return ranking.Threshold(0.0, [0] * len(parts), zeros).counts(count)
    samples = [sampled(*part, size) for part, size in zip(parts, sizes, strict=True)]
    ranks = estimate(samples, sizes, shifts, count)
    margins = [4.0] * len(parts)  # standard deviations of a rank in a sample, at most

    def split(i: int) -> Layer:
        low, high = bracket(samples[i], sizes[i], ranks[i], margins[i])
        return bracketed(parts[i], low, high, shifts[i])

    layers = [split(i) for i in range(len(parts))]
    while True:
        taken = lowest_inside(layers, count - sum(layer.below for layer in layers))
        missed = [
            i
            for i, (layer, chosen) in enumerate(zip(layers, taken, strict=True))
            # If some but not all inside go, all below do and none above does: scores only rise.
            if (chosen == 0 and layer.below) or (chosen == len(layer.inside) and layer.above)
        ]
        if not missed:
            return [layer.below + chosen for layer, chosen in zip(layers, taken, strict=True)]
        for i in missed:
            margins[i] *= 8
            layers[i] = split(i)


def lamp_scores(ascending: Tensor, rest: float) -> Tensor:
    """LAMP scores of ascending numbers >= 0, where the squares of all higher ones sum to ``rest``;
    0 where numbers and sum are 0. Every one but the layer's highest is at most 1/2."""
    squares = ascending.square()
    return (squares / (squares.flip(0).cumsum(0).flip(0) + rest)).nan_to_num(0.0)


def shift(part: Part) -> float:
    """The layer's lowest score, or 0 if that is lower."""
    low, high = ranking.ends(*part)
    if not (isfinite(low) and isfinite(high)):
        raise ValueError("a score is infinite; LAMP divides by the sum of their squares")
    return low


def zero_count(part: Part, zero: float, size: int) -> int:
    """How many of the layer's scores are ``zero``; one less if they are all."""
    found = sum((piece == zero).count_nonzero() for piece in ranking.living(*part))
    return min(int(found), max(0, size - 1))


def sampled(scores: Tensor, alive: Tensor, size: int) -> Tensor:
    """A sample of the layer's scores, or all if they are few, ascending."""
    every = 1 if size <= ranking.FEW else ranking.stride(size)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return ranking.sample(scores, alive, every, dtype).sort().values


def estimate(
    samples: Sequence[Tensor], sizes: Sequence[int], shifts: Sequence[float], count: int
) -> list[int]:
    """About how many of each sample are among the lowest ``count`` of all scores."""
    found, weights = [], []
    for sample, size, shift in zip(samples, sizes, shifts, strict=True):
        stands_for = size / max(1, len(sample))  # so many scores, in the sums and in the ranks
        found.append(lamp_scores(sample.double() - shift, 0.0) / stands_for)
        weights.append(torch.full_like(found[-1], stands_for))
    ordered, order = ranking.joined(found).sort()
    passed = ranking.joined(weights)[order].cumsum(0)
    last = min(int((passed < count).count_nonzero()), len(ordered) - 1)
    level = float(ordered[last])
    return [ranking.survivors(scores < level) for scores in found]


def bracket(sample: Tensor, size: int, rank: int, margin: float) -> tuple[float, float]:
    """Two scores between which the layer's highest that goes almost surely lies."""
    reach = margin * sqrt(len(sample))
    low, high = floor(rank - reach), ceil(rank + reach)
    if size <= ranking.FEW:
        return -inf, inf
    return (
        float(sample[low]) if low >= 0 else -inf,
        float(sample[high]) if high < len(sample) else inf,
    )


def bracketed(part: Part, low: float, high: float, shift: float) -> Layer:
    """The layer split at ``low`` and ``high``; squares are summed in double precision."""
    below, above, squares, inside = [], [], [], []
    for piece in ranking.living(*part):
        if low > -inf:
            below.append((piece < low).count_nonzero())
        if high < inf:
            higher = piece > high
            above.append(higher.count_nonzero())
            rest = ranking.zero_where(~higher, piece.double().sub_(shift))
            squares.append(rest.dot(rest))
        inside.append(piece[(piece >= low) & (piece <= high)])
    ascending = torch.cat(inside).sort().values.double().sub_(shift)
    scores = lamp_scores(ascending, float(sum(squares)))
    count_above = int(sum(above))
    if not count_above:
        scores[-1:] = inf  # the layer's highest never goes
    return Layer(int(sum(below)), scores, count_above)


def lowest_inside(layers: Sequence[Layer], count: int) -> list[int]:
    """How many of each layer's inside are among the ``count`` lowest of all of them."""
    sizes = [len(layer.inside) for layer in layers]
    if count <= 0 or count >= sum(sizes):
        return [0] * len(layers) if count <= 0 else sizes
    parts = [(layer.inside, torch.ones_like(layer.inside, dtype=torch.bool)) for layer in layers]
    return ranking.threshold(parts, count).counts(count)
