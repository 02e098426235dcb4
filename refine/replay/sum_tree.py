"""Which example does a share of the whole fall on, when the examples' sizes keep changing?"""

import numpy as np


class SumTree:
    """Sizes in the leaves of a binary tree whose nodes hold the sum of what is below: a change or a
    search touches log2(count) nodes. Many are done at once, level by level; in double precision.
    """

    def __init__(self, count: int):
        self.count = count
        self._first = 1 << max(0, count - 1).bit_length()  # node of the first leaf; the root is 1
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """The sum of all sizes."""
        return float(self._sums[1])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The sizes at these places."""
        return self._sums[self._first + places]

    def __setitem__(self, places: np.ndarray, sizes: np.ndarray) -> None:
        """Gives these places new sizes, at least 0; a place named twice gets the last one."""
        nodes = self._first + places
        self._sums[nodes] = sizes
        while nodes[0] > 1:  # all are on one level
            nodes = np.unique(nodes // 2)
            # Summed again rather than changed by the difference, so that rounding does not pile up.
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, offsets: np.ndarray) -> np.ndarray:
        """The places on which offsets in [0, total) fall when the sizes lie end to end, never one
        of size 0."""
        nodes, rest = np.ones(len(offsets), dtype=np.int64), offsets.astype(np.float64)
        for _ in range(self._first.bit_length() - 1):
            left = self._sums[2 * nodes]
            # Rounding can put an offset beyond all that is left, where no place is.
            right = (rest >= left) & (self._sums[2 * nodes + 1] > 0)
            rest = np.where(right, rest - left, rest)
            nodes = 2 * nodes + right
        return nodes - self._first
