"""Chunks beyond the limit of maps are read from their files: the same rows, and an error when a file is gone."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cache import unmapped_rows as unmapped
from cache.errors import CorruptStore
from cache.layout import ChunkKey, SplitShape, Status
from cache.reader import Split, open_store
from cache.unmapped_rows import RESERVED, UNMAPPED, maps_left, require_rows_read
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk

ROWS, DIM = 10_000, 5  # three chunks of 4,096 rows, the last one padded


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unmapped") / "store.zarr"
    shape = SplitShape(rows=ROWS, views=1, dim=DIM)
    features = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    embedding, norm, status = normalize(features)
    assert (status == Status.OK).all()
    create_store(path, {"architecture": "planted"})
    labels, thumbs = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.uint64)
    create_split(
        path, "train", dataset={"name": "none"}, rows=ROWS, views=1, dim=DIM, labels=labels, thumbs=thumbs
    )
    for key in shape.chunk_keys:
        held = slice(shape.rows_of(key).start, shape.rows_of(key).stop)
        crop = np.zeros((len(norm[held]), 5), np.float32)
        rows = ChunkRows(embedding=embedding[held], norm=norm[held], crop=crop, status=status[held])
        write_chunk(path, "train", key, rows)
    return path


def opened(store: Path, monkeypatch: pytest.MonkeyPatch, maps: int) -> Split:
    monkeypatch.setattr(unmapped, "maps_left", lambda: maps)
    return open_store(store).split("train")


@pytest.mark.parametrize("maps", [0, 1, 2])
def test_rows_are_those_of_mapped_chunks(store: Path, monkeypatch: pytest.MonkeyPatch, maps: int) -> None:
    rows = np.random.default_rng(maps).integers(0, ROWS, 500)
    expected = open_store(store).split("train").gather(rows)
    split = opened(store, monkeypatch, maps)
    assert (split.addresses == UNMAPPED).sum() == 3 - maps
    assert split.complete
    found = split.gather(rows)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
    assert split.gather(np.zeros(0, np.int64)).shape == (0, DIM)
    np.testing.assert_array_equal(split.status, open_store(store).split("train").status)


def test_a_file_that_is_cut_short_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    split = opened(store, monkeypatch, 1)
    file = store / "train/embedding/c/0/2/0"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[: DIM * 2])
        split.gather([0, 8192])  # its first row is still there
        with pytest.raises(CorruptStore, match="embedding/c/0/2/0 was deleted or cut short"):
            split.gather([8193])
        require_rows_read()  # reported once
        file.unlink()
        with pytest.raises(CorruptStore, match="embedding/c/0/2/0"):
            split.gather([8192])
        assert split.gather([5]).any()  # mapped chunks are still read
    finally:
        file.write_bytes(whole)


def test_absent_and_unmapped_chunks_are_distinguished(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store / "train/embedding/c/0/1/0"
    whole = file.read_bytes()
    try:
        file.unlink()
        split = opened(store, monkeypatch, 1)
        assert split.absent == [ChunkKey(0, 1)]
        assert split.addresses[0, 1:].tolist() == [0, UNMAPPED]
        assert split.gather([9000]).any()
    finally:
        file.write_bytes(whole)


def test_maps_left_is_what_the_system_allows_less_what_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit, maps = tmp_path / "limit", tmp_path / "maps"
    monkeypatch.setattr(unmapped, "LIMIT", limit)
    monkeypatch.setattr(unmapped, "MAPS", maps)
    assert maps_left() == sys.maxsize  # not Linux
    limit.write_text("65530\n")
    maps.write_text("a map\n" * 1000)
    assert maps_left() == 65530 - 1000 - RESERVED
    limit.write_text("100\n")
    assert maps_left() == 0
