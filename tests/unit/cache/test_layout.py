"""The division of a split into chunks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.layout import ChunkKey, SplitShape, chunk_rows

EXAMPLES = settings(deadline=None, max_examples=50)


@pytest.mark.parametrize(
    ("dim", "rows"),
    [(1, 4096), (512, 4096), (2048, 4096), (2049, 2048), (8192, 1024), (10240, 512), (2**23, 1), (2**24, 1)],
)
def test_chunk_rows_by_hand(dim: int, rows: int) -> None:
    assert chunk_rows(dim) == rows


@EXAMPLES
@given(dim=st.integers(1, 2**23))
def test_chunk_rows_is_the_largest_power_of_two_that_fits(dim: int) -> None:
    rows = chunk_rows(dim)
    assert rows.bit_count() == 1
    assert rows * dim * 2 <= 2**24
    assert rows == 4096 or 2 * rows * dim * 2 > 2**24


@EXAMPLES
@given(rows=st.integers(1, 30_000), views=st.integers(1, 3), dim=st.integers(1, 8192))
def test_chunks_hold_each_row_of_each_view_once(rows: int, views: int, dim: int) -> None:
    shape = SplitShape(rows=rows, views=views, dim=dim)
    for view in range(views):
        held = [row for key in shape.chunk_keys if key.view == view for row in shape.rows_of(key)]
        assert held == list(range(rows))


def test_a_chunk_that_is_not_there_has_no_rows() -> None:
    shape = SplitShape(rows=5000, views=1, dim=8)
    for key in (ChunkKey(0, 2), ChunkKey(1, 0), ChunkKey(0, -1)):
        with pytest.raises(IndexError, match="1 views of 2 chunks"):
            shape.rows_of(key)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        SplitShape(rows=0, views=1, dim=8)
