"""The anchor points of each step: a window over a seeded permutation, a pure function of (seed, step)."""

import numpy as np
from numpy.typing import NDArray

from cache.rows import compact

LARGEST_DEFAULT = 128_000


def default_anchors(eligible: int) -> int:
    """Return the number of anchors: 128,000 as in CompRess (NeurIPS 2020), or all eligible rows if they are fewer."""
    return min(LARGEST_DEFAULT, eligible)


class AnchorWindow:
    """A window of K rows over an endless permutation of the M eligible rows, advanced by B each step.

    The permutation is drawn once from `seed` and repeated, so a row returns after M positions and is in a
    window of K <= M rows at most once. Position p is stored in slot p % K of a ring buffer: a step replaces
    only the slots of its B new positions. With K = M every row is an anchor and no slot ever changes.

    Args:
        eligible: (M,) integers, distinct rows.
        size: K, from 1 to M.
        batch: B, the global batch size, by which the window advances each step.
        seed: seed of the permutation.

    Raises:
        ValueError: K is not from 1 to M, or B is below 1.
    """

    def __init__(self, eligible: NDArray[np.integer], size: int, batch: int, seed: int) -> None:
        if not 1 <= size <= len(eligible):
            raise ValueError(f"expected 1 to {len(eligible)} anchors, the eligible rows, found {size}")
        if batch < 1:
            raise ValueError(f"expected a batch of at least 1 row, found {batch}")
        self.size, self.batch = size, batch
        self._permutation = np.random.default_rng(seed).permutation(compact(eligible))

    def rows_at(self, step: int) -> NDArray[np.int64]:
        """Return the anchors (K,) int64 of a step, in slot order."""
        slots, rows = self._positions(step * self.batch, self.size)
        window = np.empty(self.size, np.int64)
        window[slots] = rows
        return window

    def entering(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the slots and rows, both (min(B, K),) int64, that turn `rows_at(step - 1)` into `rows_at(step)`.

        Both are empty if K = M. Raises ValueError for a step below 1.
        """
        if step < 1:
            raise ValueError(f"anchors enter from step 1 on, found step {step}")
        if self.size == len(self._permutation):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        count = min(self.batch, self.size)
        return self._positions(step * self.batch + self.size - count, count)

    def _positions(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # start is a Python int of any size, so it is reduced before numpy sees it
        offsets = np.arange(count)
        slots = (start % self.size + offsets) % self.size
        rows = self._permutation[(start % len(self._permutation) + offsets) % len(self._permutation)]
        return slots, rows.astype(np.int64)
