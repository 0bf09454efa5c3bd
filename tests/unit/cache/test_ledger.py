"""The ledger of a split: plain zarr reads it, and a store without one stays without."""

import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from cache.layout import ChunkKey
from cache.ledger import mark
from cache.reader import open_store
from cache.writer import absent_chunks
from tests.support import tiny_store
from tests.support.tiny_store import SHAPE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tiny_store.written(tmp_path / "cache.zarr")
    return tmp_path / "cache.zarr"


def test_plain_zarr_reads_the_checksums_of_every_chunk(path: Path) -> None:
    group = zarr.open_group(path, mode="r")["train"]
    ledger, rows = group["checksum"][:], group["row_checksum"][:]
    assert (ledger.shape, rows.shape) == ((2, 3, 5), (3, 3))
    for view, index in np.ndindex(2, 3):
        for place, name in enumerate(("status", "norm", "crop", "embedding")):
            tail = "" if name in ("status", "norm") else "/0"
            body = (path / f"train/{name}/c/{view}/{index}{tail}").read_bytes()[:-4]
            assert ledger[view, index, place] == google_crc32c.value(body)
    for place, name in enumerate(("label", "thumb")):
        bodies = [(path / f"train/{name}/c/{index}").read_bytes()[:-4] for index in range(3)]
        assert rows[:, place].tolist() == [google_crc32c.value(body) for body in bodies]
    assert len({*ledger[..., -1].flat}) == 6


def test_a_mark_depends_on_store_split_dataset_view_and_index() -> None:
    dataset = tiny_store.dataset_of(SHAPE)
    marks = {
        mark("1", "train", dataset, ChunkKey(0, 0)),
        mark("2", "train", dataset, ChunkKey(0, 0)),
        mark("1", "val", dataset, ChunkKey(0, 0)),
        mark("1", "train", {**dataset, "images": "2" * 64}, ChunkKey(0, 0)),
        mark("1", "train", dataset, ChunkKey(1, 0)),
        mark("1", "train", dataset, ChunkKey(0, 1)),
    }
    assert len(marks) == 6
    # read back from a store, tuples are lists
    assert mark("1", "train", {**dataset, "classes": ("cat", "dog")}, ChunkKey(0, 0)) in marks


def test_a_store_that_was_created_without_a_ledger_stays_without(path: Path) -> None:
    for name in ("checksum", "row_checksum"):
        shutil.rmtree(path / "train" / name)
    before = tiny_store.contents(path)
    (path / "train/embedding/c/0/1/0").unlink()
    (path / "train/label/c/1").unlink()
    tiny_store.create(path)
    tiny_store.write(path, absent_chunks(path, "train"))
    assert tiny_store.contents(path) == before
    assert open_store(path).split("train").verify()
