"""Writing a store: what is in its files, what is refused, and what remains after kills and full disks."""

import errno
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from cache.columns import chunk_columns, row_columns
from cache.errors import IdentityMismatch, NotAStore, StoreError
from cache.layout import ChunkKey, Status
from cache.reader import open_store
from cache.writer import absent_chunks, create_split, create_store, normalize, write_chunk
from tests.support import tiny_store
from tests.support.tiny_store import SHAPE, TEACHER

fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that was written without interruption."""
    path = tmp_path_factory.mktemp("whole") / "cache.zarr"
    tiny_store.written(path)
    return tiny_store.contents(path)


def zarr_twin(path: Path) -> None:
    """Write the same split with zarr itself."""
    group = zarr.create_group(path)
    for column in (*chunk_columns(SHAPE), *row_columns(SHAPE)):
        array = group.create_array(
            column.name,
            shape=column.shape,
            chunks=column.chunk_shape,
            dtype=column.dtype,
            fill_value=column.fill,
            serializer=BytesCodec(endian="little"),
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        array[:] = values_of(column.name)


def values_of(name: str) -> np.ndarray:
    if name == "label":
        return tiny_store.labels_of(SHAPE)
    if name == "thumb":
        return tiny_store.thumbs_of(SHAPE)
    return tiny_store.column_of(SHAPE, name)


def test_plain_zarr_reads_every_array(tmp_path: Path) -> None:
    tiny_store.written(tmp_path / "cache.zarr")
    group = zarr.open_group(tmp_path / "cache.zarr", mode="r")["train"]
    for name in ("embedding", "norm", "crop", "status", "label", "thumb"):
        np.testing.assert_array_equal(group[name][:], values_of(name))
        # the last chunk by itself, and rows of two chunks
        np.testing.assert_array_equal(group[name][..., -3:], values_of(name)[..., -3:])
    np.testing.assert_array_equal(group["embedding"][1, 4090:8200], values_of("embedding")[1, 4090:8200])


def test_every_file_of_a_split_is_what_zarr_writes(tmp_path: Path) -> None:
    tiny_store.written(tmp_path / "cache.zarr")
    zarr_twin(tmp_path / "twin")
    ours, theirs = tiny_store.contents(tmp_path / "cache.zarr/train"), tiny_store.contents(tmp_path / "twin")
    # the twin has no attributes and no ledger
    del ours["zarr.json"], theirs["zarr.json"]
    assert {name: data for name, data in ours.items() if "checksum" not in name} == theirs


def test_normalise_by_hand() -> None:
    features = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [3e38, 3e38], [3e-45, 4e-45]], np.float32)
    embedding, norm, status = normalize(features)
    # the last row: 3e-45 and 4e-45 are two and three times the smallest float32
    tiny = np.array([2, 3]) / np.sqrt(13)
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(embedding, np.array([[0.6, 0.8], nan, nan, nan, nan, tiny], np.float16))
    assert status.tolist() == [1, 3, 3, 3, 3, 1]
    np.testing.assert_array_equal(norm[:4], np.array([5, 0, np.nan, np.inf], np.float32))
    assert (embedding.dtype, norm.dtype, status.dtype) == (np.float16, np.float32, np.uint8)


def test_creating_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/cache.zarr"
    tiny_store.create(path)
    before = tiny_store.contents(path)
    tiny_store.create(path)
    assert tiny_store.contents(path) == before
    assert absent_chunks(path, "train") == SHAPE.chunk_keys


def test_another_teacher_is_refused_field_by_field(tmp_path: Path) -> None:
    create_store(tmp_path / "cache.zarr", TEACHER)
    other = {**TEACHER, "preprocessing": {"resize": 232, "mean": [0.5]}}
    with pytest.raises(IdentityMismatch, match=r"\(preprocessing.resize: expected 232, found 256\)"):
        create_store(tmp_path / "cache.zarr", other)


def test_the_first_origin_is_kept_and_is_no_part_of_the_identity(tmp_path: Path) -> None:
    create_store(tmp_path / "plain.zarr", TEACHER)
    create_store(tmp_path / "named.zarr", TEACHER, {"name": "moco"})
    create_store(tmp_path / "named.zarr", TEACHER, {"name": "another"})
    plain, named = open_store(tmp_path / "plain.zarr"), open_store(tmp_path / "named.zarr")
    assert (plain.origin, named.origin) == ({}, {"name": "moco"})
    assert (plain.id, plain.teacher) == (named.id, named.teacher)


def test_another_dataset_is_refused_field_by_field(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    rows = SHAPE.rows - 1
    with pytest.raises(
        IdentityMismatch, match=rf"dataset.classes.*; rows: expected {rows}, found {SHAPE.rows}"
    ):
        create_split(
            path,
            "train",
            dataset={**tiny_store.dataset_of(SHAPE), "classes": ["cat"]},
            rows=rows,
            views=SHAPE.views,
            dim=SHAPE.dim,
            labels=tiny_store.labels_of(SHAPE)[:rows],
            thumbs=tiny_store.thumbs_of(SHAPE)[:rows],
        )


def test_what_is_not_a_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / ".folder~mine.tmp").write_text("mine")
    before = tiny_store.contents(tmp_path)
    for name in ("folder", "file"):
        with pytest.raises(NotAStore, match="is not part of a store"):
            create_store(tmp_path / name, TEACHER)
    assert tiny_store.contents(tmp_path) == before


@pytest.mark.parametrize("name", ["", "a/b", "../train", ".train", "train~1"])
def test_names_that_cannot_be_a_split(tmp_path: Path, name: str) -> None:
    create_store(tmp_path / "cache.zarr", TEACHER)
    with pytest.raises(StoreError, match="cannot name a split"):
        tiny_store.create(tmp_path / "cache.zarr", split=name)


def test_absent_chunks_are_those_with_a_file_missing_or_of_a_wrong_size(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.written(path)
    assert absent_chunks(path, "train") == []
    (path / "train/embedding/c/0/1/0").unlink()
    (path / "train/norm/c/1/0").unlink()
    with open(path / "train/embedding/c/1/2/0", "ab") as file:
        file.write(b"!")
    assert absent_chunks(path, "train") == [ChunkKey(0, 1), ChunkKey(1, 0), ChunkKey(1, 2)]


def test_missing_labels_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    before = tiny_store.contents(path)
    (path / "train/label/c/1").unlink()
    (path / "train/thumb/c/2").write_bytes(b"short")
    tiny_store.create(path)
    assert tiny_store.contents(path) == before


def test_rows_that_are_not_finite_are_an_assertion_error(tmp_path: Path) -> None:
    tiny_store.create(tmp_path / "cache.zarr")
    chunk = tiny_store.chunk_of(SHAPE, ChunkKey(0, 0))
    chunk.status[5] = Status.OK
    with pytest.raises(AssertionError, match="status OK is not finite"):
        type(chunk)(embedding=chunk.embedding, norm=chunk.norm, crop=chunk.crop, status=chunk.status)
    with pytest.raises(AssertionError, match=r"index=2"):
        write_chunk(tmp_path / "cache.zarr", "train", ChunkKey(0, 2), chunk)


@pytest.mark.parametrize("call", range(12))
def test_a_full_disk_leaves_the_chunk_absent_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], call: int
) -> None:
    """Full at each fsync up to the embedding's: two each for status and norm, three for crop, ledger and embedding."""
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    tiny_store.write(path, [ChunkKey(0, 0)])
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        message = r"cannot write .*/c/0/1.*: No space left on device; .*resumes from there"
        with pytest.raises(StoreError, match=message):
            tiny_store.write(path, [ChunkKey(0, 1)])
    assert list(tmp_path.rglob("*.tmp")) == []
    assert absent_chunks(path, "train") == SHAPE.chunk_keys[1:]
    tiny_store.write(path, absent_chunks(path, "train"))
    assert tiny_store.contents(path) == whole


def test_a_full_disk_while_creating_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            create_store(tmp_path / "cache.zarr", TEACHER)
    assert list(tmp_path.iterdir()) == []


def killed_after(seconds: float, work: Callable, *arguments: Any) -> None:
    """Run `work` in a child process, as if on a slow disk, and kill it after some seconds unless it has finished."""
    ready = fork.Event()

    def run() -> None:
        os.fsync = lambda descriptor: time.sleep(0.001)
        ready.set()
        work(*arguments)

    child = fork.Process(target=run)
    child.start()
    assert ready.wait(timeout=60)
    time.sleep(seconds)
    child.kill()
    child.join()


def write_forever(path: Path) -> None:
    while True:
        tiny_store.write(path, SHAPE.chunk_keys)


def test_killed_writers_leave_only_whole_chunks(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "cache.zarr"
    moments = random.Random(0)
    tiny_store.create(path)
    kills = 0
    while kills < 20 or not list(path.rglob("*.tmp")):
        assert kills < 200, "no writer was killed in the middle of a file"
        killed_after(moments.uniform(0, 0.1), write_forever, path)
        kills += 1
        found = {name: data for name, data in tiny_store.contents(path).items() if not name.endswith(".tmp")}
        assert found.items() <= whole.items()
        split = open_store(path).split("train")
        assert split.absent == absent_chunks(path, "train")
    tiny_store.create(path)
    tiny_store.write(path, absent_chunks(path, "train"))
    assert tiny_store.contents(path) == whole


def test_killed_creation_leaves_nothing_that_opens_as_whole(tmp_path: Path) -> None:
    moments = random.Random(0)
    tiny_store.create(tmp_path / "whole/cache.zarr")
    expected = tiny_store.contents(tmp_path / "whole")
    for attempt in range(20):
        path = tmp_path / f"{attempt}/cache.zarr"
        killed_after(moments.uniform(0, 0.12), tiny_store.create, path)
        if (path / "train").exists():
            np.testing.assert_array_equal(open_store(path).split("train").label, tiny_store.labels_of(SHAPE))
        tiny_store.create(path)
        # nor is a staging folder left beside it
        assert tiny_store.contents(path.parent) == expected


def test_leftovers_of_the_living_and_of_other_machines_stay(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    host = os.uname().nodename
    dead = fork.Process(target=int)
    dead.start()
    dead.join()
    folder = path / "train/embedding/c/0/0"
    folder.mkdir(parents=True)
    names = [
        f".0~{host}~{os.getpid()}~0.tmp",
        f".0~elsewhere~{dead.pid}~0.tmp",
        f".0~{host}~{dead.pid}~0.tmp",
    ]
    for name in names:
        (folder / name).write_bytes(b"half")
    assert len(absent_chunks(path, "train")) == len(SHAPE.chunk_keys)
    assert np.isnan(zarr.open_array(path / "train/embedding", mode="r")[0, :3]).all()
    tiny_store.create(path)
    assert sorted(file.name for file in folder.iterdir()) == sorted(names[:2])


def test_two_processes_write_different_chunks_at_once(tmp_path: Path, whole: dict[str, bytes]) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    children = [
        fork.Process(target=tiny_store.write, args=(path, SHAPE.chunk_keys[start::2])) for start in (0, 1)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert tiny_store.contents(path) == whole


def test_two_processes_create_the_same_store_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    children = [fork.Process(target=tiny_store.create, args=(path,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache.zarr"]
    assert absent_chunks(path, "train") == SHAPE.chunk_keys
