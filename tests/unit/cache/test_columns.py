"""Columns: names, sizes and bytes of chunk files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.columns import Column, chunk_columns, decode, encode, row_columns
from cache.layout import ChunkKey, SplitShape

EXAMPLES = settings(deadline=None, max_examples=50)


def test_the_embedding_is_written_last_and_a_chunk_file_is_rows_and_checksum() -> None:
    columns = chunk_columns(SplitShape(rows=5000, views=2, dim=2048))
    assert columns[-1].name == "embedding"
    assert columns[-1].file_bytes == 4096 * 2048 * 2 + 4
    assert columns[-1].file_name(ChunkKey(1, 3)) == "embedding/c/1/3/0"


def test_file_names_of_each_rank() -> None:
    shape = SplitShape(rows=5000, views=2, dim=8)
    names = [column.file_name(ChunkKey(1, 3)) for column in (*chunk_columns(shape), *row_columns(shape))]
    assert names == [
        "status/c/1/3",
        "norm/c/1/3",
        "crop/c/1/3/0",
        "embedding/c/1/3/0",
        "label/c/3",
        "thumb/c/3",
    ]


def any_column(name: str) -> Column:
    shape = SplitShape(rows=5000, views=2, dim=8)
    return next(each for each in (*chunk_columns(shape), *row_columns(shape)) if each.name == name)


@pytest.mark.parametrize("name", ["status", "norm", "crop", "embedding", "label", "thumb"])
def test_decode_returns_what_was_encoded_and_pads_with_the_fill(name: str) -> None:
    column = any_column(name)
    rows = np.arange(904 * np.prod(column.tail, dtype=int)).reshape(904, *column.tail).astype(column.dtype)
    decoded = decode(column, encode(column, rows))
    np.testing.assert_array_equal(decoded[:904], rows)
    np.testing.assert_array_equal(decoded[904:], np.full((3192, *column.tail), column.fill, column.dtype))


@EXAMPLES
@given(position=st.integers(0, 4096 * 4 + 3), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(position: int, bit: int) -> None:
    column = any_column("norm")
    data = bytearray(encode(column, np.ones(4096, np.float32)))
    data[position] ^= 1 << bit
    with pytest.raises(ValueError, match="crc32c"):
        decode(column, bytes(data))
