"""Compact row numbers."""

import numpy as np
import pytest

from cache.rows import compact


@pytest.mark.parametrize("last", [0, 255, 2**31, 2**32 - 1])
def test_compact_rows_are_the_same_in_half_the_bytes(last: int) -> None:
    rows = np.array([last, 0, 3])
    assert compact(rows).dtype == np.uint32
    assert compact(rows).tolist() == rows.tolist()


def test_a_row_too_large_for_32_bits_is_kept() -> None:
    assert compact(np.array([2**32])).tolist() == [2**32]


def test_no_rows_are_compact() -> None:
    assert compact(np.array([], np.int64)).dtype == np.uint32


def test_the_permutation_is_that_of_the_wide_rows() -> None:
    """Otherwise the anchors would depend on how rows are stored."""
    rows = np.arange(100_000)
    wide, narrow = (np.random.default_rng(3).permutation(kept) for kept in (rows, compact(rows)))
    assert np.array_equal(wide, narrow)
