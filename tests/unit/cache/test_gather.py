"""Gathering rows from mapped chunks."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cache.errors import IncompleteStore
from cache.layout import ChunkKey, SplitShape
from cache.reader import Split, open_store
from tests.support import tiny_store
from tests.support.tiny_store import SHAPE


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return tiny_store.written(tmp_path_factory.mktemp("gather") / "cache.zarr")


@pytest.fixture(scope="module")
def embedding() -> np.ndarray:
    return tiny_store.column_of(SHAPE, "embedding")


@pytest.mark.parametrize("view", [0, 1])
def test_rows_in_any_order_and_repeated(split: Split, embedding: np.ndarray, view: int) -> None:
    rows = np.random.default_rng(0).integers(0, SHAPE.rows, 1000)
    np.testing.assert_array_equal(split.gather(rows, view), embedding[view][rows])


def test_every_row_of_every_chunk_bit_for_bit(split: Split, embedding: np.ndarray) -> None:
    found = split.gather(np.arange(SHAPE.rows))
    # as bits, so that the NaN of unreadable rows are compared as well
    np.testing.assert_array_equal(found.view(np.uint16), embedding[0].view(np.uint16))


def test_first_and_last_rows_of_chunks(split: Split, embedding: np.ndarray) -> None:
    rows = [0, 4095, 4096, 8191, 8192, SHAPE.rows - 1]
    np.testing.assert_array_equal(split.gather(rows), embedding[0][rows])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, np.uint8])
def test_rows_of_any_integer_type_also_read_only_and_strided(
    split: Split, embedding: np.ndarray, dtype: type
) -> None:
    rows = np.arange(200).astype(dtype)[::2]
    rows.flags.writeable = False
    np.testing.assert_array_equal(split.gather(rows), embedding[0][rows])


def test_into_a_buffer_that_is_part_of_a_bigger_one(split: Split, embedding: np.ndarray) -> None:
    buffer = np.zeros((8, SHAPE.dim), np.float16)
    assert split.gather([7, 9], out=buffer[2:4]) is not None
    np.testing.assert_array_equal(buffer[2:4], embedding[0][[7, 9]])
    assert not buffer[:2].any()
    assert not buffer[4:].any()


def test_no_rows(split: Split) -> None:
    assert split.gather(np.empty(0, np.int64)).shape == (0, SHAPE.dim)


@pytest.mark.parametrize("rows", [[-1], [0, SHAPE.rows], [2**62], np.array([2**64 - 1], np.uint64)])
def test_rows_out_of_range_never_reach_the_memory(split: Split, rows: list) -> None:
    with pytest.raises(IndexError, match=f"expected rows 0 to {SHAPE.rows - 1}"):
        split.gather(rows)


@pytest.mark.parametrize("rows", [[0.5], [True, False], [[1, 2]], 3])
def test_what_is_not_a_list_of_rows_is_refused(split: Split, rows: list) -> None:
    with pytest.raises(IndexError, match=r"expected rows \(B,\) as integers"):
        split.gather(rows)


@pytest.mark.parametrize("view", [-1, 2])
def test_views_out_of_range(split: Split, view: int) -> None:
    with pytest.raises(IndexError, match="has 2 views"):
        split.gather([0], view)


def test_rows_of_an_absent_chunk_are_refused_and_the_others_are_not(
    tmp_path: Path, embedding: np.ndarray
) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    tiny_store.write(path, [ChunkKey(0, 1)])
    split = open_store(path).split("train")
    rows = [4096, 8191]
    np.testing.assert_array_equal(split.gather(rows), embedding[0][rows])
    for row, view in ((4095, 0), (8192, 0), (4096, 1)):
        with pytest.raises(IncompleteStore, match="has 1 of 6 chunks; run the command"):
            split.gather([row], view)


@pytest.mark.parametrize("dim", [1, 3, 1000])
def test_odd_dimensions(tmp_path: Path, dim: int) -> None:
    shape = SplitShape(rows=5000, views=1, dim=dim)
    split = tiny_store.written(tmp_path / "cache.zarr", shape)
    rows = np.random.default_rng(0).integers(0, 5000, 64)
    np.testing.assert_array_equal(split.gather(rows), tiny_store.column_of(shape, "embedding")[0][rows])


def test_nothing_needs_a_folder_for_compiled_code() -> None:
    """On a read-only installation without a home folder numba finds no cache folder, and compiles at each start."""
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": os.devnull}
    program = """if True:
        import numpy as np
        from cache.gather import gather_rows
        source, out = np.arange(6, dtype=np.uint16).reshape(3, 2), np.zeros((1, 2), np.uint16)
        gather_rows(np.array([source.ctypes.data], np.uint64), np.array([2]), 4, out)
        print(out.tolist())
    """
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True, check=True)
    assert done.stdout == "[[4, 5]]\n"
