"""Row numbers: checked before they reach compiled code, and stored compactly."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST = np.iinfo(np.uint32).max


def checked_rows(rows: ArrayLike, count: int, what: str) -> NDArray[np.int64]:
    """Return a copy of the rows (B,) as int64, the only type that the loops are compiled for.

    Raises IndexError unless they are a one-dimensional array of integers from 0 to count - 1. what: name of the
    indexed object in the message.
    """
    given = np.asarray(rows)
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise IndexError(f"expected rows (B,) as integers, found {given.shape} as {given.dtype}")
    checked = given.astype(np.int64)
    if checked.size and (checked.min() < 0 or checked.max() >= count):
        raise IndexError(
            f"expected rows 0 to {count - 1} of {what}, found {checked.min()} to {checked.max()}"
        )
    return checked


def compact(rows: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the same rows as uint32, in half the memory, unless one of them is too large."""
    return rows if rows.size and rows.max() > MOST else rows.astype(np.uint32)


def sample(rows: NDArray[np.int64], most: int, draws: np.random.Generator) -> NDArray[np.int64]:
    """Return at most so many random ones of the rows (N,), ascending."""
    return np.sort(draws.choice(rows, min(most, len(rows)), replace=False))


def spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of the rows (N,), evenly spread over all."""
    return rows[np.linspace(0, max(0, len(rows) - 1), min(most, len(rows))).astype(np.int64)]
