"""Row numbers: checked before they reach compiled code, which checks nothing, and kept in little memory."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST = np.iinfo(np.uint32).max


def checked_rows(rows: ArrayLike, count: int, what: str) -> NDArray[np.int64]:
    """The rows (B,) as int64, the one type that the loops are compiled for, and always a copy.

    Raises IndexError for what is no list of rows, and for a row that is not from 0 to count - 1, the rows of `what`.
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
    """The same rows in half the memory, as uint32, unless one of them is too large for it."""
    return rows if rows.size and rows.max() > MOST else rows.astype(np.uint32)
