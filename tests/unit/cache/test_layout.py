import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.columns import Column, chunk_columns, decode, encode, row_columns
from cache.identity import canonical_json, identity_difference, identity_id
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


def test_canonical_json_by_hand() -> None:
    assert canonical_json({"b": (1, 2.5), "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_identity_id_by_hand() -> None:
    # printf '{"a":1,"b":2}' | sha256sum
    expected = "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"
    assert identity_id({"b": 2, "a": 1}) == identity_id({"a": 1, "b": 2}) == expected


def test_identity_difference_is_nested_ordered_and_says_what_is_missing() -> None:
    expected = {"name": "a", "pre": {"mean": (0.5, 0.25), "std": [1.0], "crop": 224}, "dim": 8}
    found = {"pre": {"mean": [0.5, 0.5], "std": [1.0]}, "name": "b", "dim": 8, "extra": None}
    assert identity_difference(expected, found) == [
        'name: expected "a", found "b"',
        "pre.mean: expected [0.5, 0.25], found [0.5, 0.5]",
        "pre.crop: expected 224, found nothing",
        "extra: expected nothing, found null",
    ]


def test_identity_difference_of_long_lists_tells_the_first_item_that_differs() -> None:
    classes = [f"class {i}" for i in range(1000)]
    other = [*classes[:700], "dog", "cat", *classes[702:]]
    shorter = classes[:-1]
    assert identity_difference({"classes": classes}, {"classes": other}) == [
        'classes[700]: expected "class 700", found "dog"'
    ]
    assert identity_difference({"classes": classes}, {"classes": shorter}) == [
        "classes: expected 1000 items, found 999"
    ]


FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.sampled_from(["0", None, True]))


@EXAMPLES
@given(left=FIELDS, right=FIELDS)
def test_identities_differ_exactly_when_their_ids_do(left: dict, right: dict) -> None:
    left, right = {"x": 0, "inner": left}, {"inner": right, "x": 0}
    assert (identity_difference(left, right) == []) == (identity_id(left) == identity_id(right))
