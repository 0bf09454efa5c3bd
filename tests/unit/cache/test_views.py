"""Random views are added to a split: the files of a new split with as many, and no other chunk is touched."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.audit import audit
from cache.errors import IdentityMismatch
from cache.layout import ChunkKey, SplitShape
from cache.metadata import read_split, read_split_attributes
from cache.reader import open_store
from cache.restore import damaged_metadata
from cache.writer import absent_chunks, create_split, create_store, write_chunk
from tests.support.tiny_store import TEACHER, chunk_of, column_of, contents, dataset_of, labels_of, thumbs_of

SHAPE = SplitShape(rows=4096 + 30, views=3, dim=8)
SCALE = (0.25, 1.0)
CENTRE = [ChunkKey(0, 0), ChunkKey(0, 1)]
RANDOM = [ChunkKey(view, index) for view in (1, 2) for index in (0, 1)]


def create(path: Path, views: int, crop_scale: tuple[float, float] | None = None) -> None:
    create_store(path, TEACHER | {"dim": 8})
    made: dict[str, Any] = {"dataset": dataset_of(SHAPE), "rows": SHAPE.rows, "dim": SHAPE.dim}
    of_rows = {"labels": labels_of(SHAPE), "thumbs": thumbs_of(SHAPE)}
    create_split(path, "train", **made, **of_rows, views=views, crop_scale=crop_scale)


def write(path: Path, keys: list[ChunkKey]) -> None:
    for key in keys:
        write_chunk(path, "train", key, chunk_of(SHAPE, key))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with the center view alone, complete."""
    path = tmp_path / "cache.zarr"
    create(path, 1)
    write(path, CENTRE)
    return path


def test_a_split_with_added_views_is_one_that_was_made_with_them(path: Path, tmp_path: Path) -> None:
    before = contents(path)
    create(path, 3, SCALE)
    changed = {name for name, data in contents(path).items() if before.get(name) != data}
    assert all(name.endswith("zarr.json") for name in changed)
    assert absent_chunks(path, "train") == RANDOM
    write(path, RANDOM)
    create(tmp_path / "new.zarr", 3, SCALE)
    write(tmp_path / "new.zarr", CENTRE + RANDOM)
    assert contents(path) == contents(tmp_path / "new.zarr")
    assert not audit(path).faults
    split = open_store(path).split("train")
    rows = np.array([0, 7, 4100])
    for view in range(3):
        np.testing.assert_array_equal(split.gather(rows, view), column_of(SHAPE, "embedding")[view, rows])
        np.testing.assert_array_equal(split.crop_of(view), column_of(SHAPE, "crop")[view])
        np.testing.assert_array_equal(split.norm_of(view), column_of(SHAPE, "norm")[view])


def test_the_first_views_are_complete_without_the_others(path: Path) -> None:
    create(path, 3, SCALE)
    write(path, RANDOM[:2])
    store = open_store(path)
    complete = {views: store.split("train", views=views).complete for views in (1, 2, 3)}
    assert complete == {1: True, 2: True, 3: False}
    assert store.split("train", views=2).shape.views == 2
    assert store.split("train", views=9).shape.views == 3


def test_readers_see_the_former_views_until_all_metadata_are_written(path: Path, tmp_path: Path) -> None:
    grown = tmp_path / "grown.zarr"
    shutil.copytree(path, grown)
    create(grown, 3, SCALE)
    arrays = sorted(grown.glob("train/*/zarr.json"))
    for count in range(len(arrays) + 1):
        interrupted = tmp_path / f"{count}.zarr"
        shutil.copytree(path, interrupted)
        for file in arrays[:count]:
            shutil.copyfile(file, interrupted / file.relative_to(grown))
        assert open_store(interrupted).split("train").shape.views == 1
        create(interrupted, 3, SCALE)
        assert contents(interrupted) == contents(grown)


def test_fewer_views_keep_what_is_there_and_other_crops_are_refused(path: Path) -> None:
    create(path, 3, SCALE)
    before = contents(path)
    create(path, 1)
    create(path, 2, SCALE)
    assert contents(path) == before
    assert read_split_attributes(path, "train")[2] == SCALE
    with pytest.raises(IdentityMismatch, match=r"crop_scale: expected \[0.1, 1.0\], found \[0.25, 1.0\]"):
        create(path, 4, (0.1, 1.0))
    assert contents(path) == before


@pytest.mark.parametrize("file", ["zarr.json", "norm/zarr.json", "crop/zarr.json", "embedding/zarr.json"])
def test_lost_metadata_of_a_split_with_views_are_restored(path: Path, file: str) -> None:
    create(path, 3, SCALE)
    write(path, RANDOM)
    before = contents(path)
    (path / "train" / file).unlink()
    damaged = damaged_metadata(path, "train", [dataset_of(SHAPE)], SHAPE.rows)
    assert {*damaged} == {file}
    (path / "train" / file).write_bytes(damaged[file])
    assert contents(path) == before
    assert read_split(path, "train")[0] == SHAPE
    assert not audit(path).faults


def test_two_lost_files_may_hide_the_number_of_views(path: Path) -> None:
    create(path, 3, SCALE)
    write(path, RANDOM)
    for file in ("zarr.json", "crop/zarr.json"):
        (path / "train" / file).unlink()
    with pytest.raises(IdentityMismatch, match="cannot be restored"):
        damaged_metadata(path, "train", [dataset_of(SHAPE)], SHAPE.rows)


def test_each_number_of_views_is_verified_once(path: Path) -> None:
    create(path, 3, SCALE)
    write(path, RANDOM)
    store = open_store(path)
    assert [store.split("train", views=views).verify() for views in (1, 3, 1, 3, 2)] == [
        True,
        True,
        False,
        False,
        True,
    ]
