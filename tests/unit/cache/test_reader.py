"""Opening a store, reading its columns, and verifying its checksums."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.errors import CorruptStore, FormatMismatch, IncompleteStore, NotAStore
from cache.identity import identity_id
from cache.layout import ChunkKey, Status
from cache.reader import open_store
from cache.writer import absent_chunks, create_store
from tests.support import tiny_store
from tests.support.tiny_store import SHAPE, TEACHER


@pytest.fixture(autouse=True)
def record_of_verifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg/anchorage/verified"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A complete store."""
    tiny_store.written(tmp_path / "cache.zarr")
    return tmp_path / "cache.zarr"


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_store_has_its_teacher_id_splits_and_datasets(path: Path) -> None:
    store = open_store(path)
    assert store.teacher == TEACHER
    assert store.id == identity_id(TEACHER)
    assert store.splits == ("train",)
    assert store.split("train").dataset == tiny_store.dataset_of(SHAPE)


def test_columns_are_what_was_written(path: Path) -> None:
    split = open_store(path).split("train")
    assert split.shape == SHAPE
    for name in ("status", "norm", "crop"):
        np.testing.assert_array_equal(getattr(split, name), tiny_store.column_of(SHAPE, name))
    np.testing.assert_array_equal(split.label, tiny_store.labels_of(SHAPE))
    np.testing.assert_array_equal(split.thumb, tiny_store.thumbs_of(SHAPE))
    assert split.label.dtype == np.int64
    assert split.thumb.dtype == np.uint64


def test_what_zarr_wrote_is_read(path: Path) -> None:
    values = np.random.default_rng(0).random(SHAPE.rows).astype(np.float32)
    zarr.open_array(path / "train/norm", mode="r+")[1] = values
    np.testing.assert_array_equal(open_store(path).split("train").norm[1], values)


def test_eligible_rows_are_ok_in_every_requested_view(path: Path) -> None:
    status = tiny_store.column_of(SHAPE, "status")
    status[1, 7] = Status.DEGENERATE
    zarr.open_array(path / "train/status", mode="r+")[:] = status
    split = open_store(path).split("train")
    assert sorted({*range(10)} - {*split.eligible()}) == [3, 5]
    assert sorted({*range(10)} - {*split.eligible(views=(0, 1))}) == [3, 5, 7]
    # two rows of each of the three chunks, and row 7
    assert len(split.eligible(views=(0, 1))) == SHAPE.rows - 7
    assert (np.diff(split.eligible()) > 0).all()


def test_absent_rows_of_an_incomplete_split_are_not_eligible(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    tiny_store.create(path)
    tiny_store.write(path, [ChunkKey(0, 0), ChunkKey(0, 2)])
    # as if killed before its embedding: the other files of chunk 2 do not count
    (path / "train/embedding/c/0/2/0").unlink()
    split = open_store(path).split("train")
    assert not split.complete
    assert split.absent == [key for key in SHAPE.chunk_keys if key != ChunkKey(0, 0)]
    with pytest.raises(IncompleteStore, match=r"has 1 of 6 chunks; run the command .*\(cache-teacher"):
        split.require_complete()
    assert split.eligible().max() == 4095
    assert (split.status[0, 4096:] == Status.ABSENT).all()
    assert np.isnan(split.norm[0, 4096:]).all()
    assert split.addresses.astype(bool).tolist() == [[True, False, False], [False, False, False]]


def test_a_complete_split_requires_nothing(path: Path) -> None:
    split = open_store(path).split("train")
    assert split.complete
    split.require_complete()


def test_what_is_not_a_store(tmp_path: Path, path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr", attributes={"mine": 1})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/zarr.json").write_text("{")
    for name in ("other.zarr", "broken"):
        with pytest.raises(NotAStore, match=f"{name} is not part of a store.*check the path"):
            open_store(tmp_path / name)
    with pytest.raises(NotAStore, match="nothing does not exist; check the path"):
        open_store(tmp_path / "nothing")
    with pytest.raises(NotAStore, match="has no split 'trian'; it has train"):
        open_store(path).split("trian")


def test_a_store_without_splits(tmp_path: Path) -> None:
    create_store(tmp_path / "cache.zarr", TEACHER)
    store = open_store(tmp_path / "cache.zarr")
    assert store.splits == ()
    with pytest.raises(NotAStore, match="it has none yet"):
        store.split("train")


def test_another_format_is_refused(path: Path) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["anchorage"]["format"] = 2
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(FormatMismatch, match="format 2, but this version reads format 1"):
        open_store(path)


def test_arrays_laid_out_in_another_way_are_refused(path: Path) -> None:
    file = path / "train/embedding/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["codecs"].insert(1, {"name": "zstd", "configuration": {"level": 1, "checksum": False}})
    file.write_text(json.dumps(metadata))
    with pytest.raises(FormatMismatch, match=r"'embedding' .*is not laid out as in format 1"):
        open_store(path).split("train")


@pytest.mark.parametrize("name", ["embedding/c/1/0/0", "status/c/0/2", "crop/c/0/1/0", "label/c/1"])
def test_a_file_cut_short_is_refused_at_open_by_name(path: Path, name: str) -> None:
    file = path / "train" / name
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(
        CorruptStore, match=f"{name} was cut short.*expected {size:,} bytes, found {size - 1:,}"
    ):
        open_store(path).split("train")
    # and is restored as the message says
    tiny_store.create(path)
    tiny_store.write(path, absent_chunks(path, "train"))
    assert open_store(path).split("train").verify()


def test_a_missing_companion_of_an_embedding_is_refused_by_name(path: Path) -> None:
    (path / "train/status/c/0/2").unlink()
    with pytest.raises(CorruptStore, match="status/c/0/2 is missing"):
        open_store(path).split("train")


def test_a_changed_column_is_refused_when_it_is_read(path: Path) -> None:
    flip_a_bit(path / "train/label/c/1")
    split = open_store(path).split("train")
    with pytest.raises(CorruptStore, match=r"label/c/1 has changed since it was written.*crc32c"):
        _ = split.label


def test_verify_reads_once_and_again_after_a_change(path: Path, record_of_verifications: Path) -> None:
    split = open_store(path).split("train")
    calls: list[tuple[int, int]] = []
    assert split.verify(progress=lambda done, total: calls.append((done, total)))
    # four columns of six chunks, two columns of three
    assert calls == [(done, 30) for done in range(1, 31)]
    assert not split.verify(progress=lambda done, total: pytest.fail("read again"))
    assert not open_store(path).split("train").verify()
    assert len(list(record_of_verifications.iterdir())) == 1
    os.utime(path / "train/norm/c/0/0", ns=(0, 0))
    assert split.verify()


def test_verify_is_remembered_for_one_path_however_it_is_spelled(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_store(path).split("train").verify()
    monkeypatch.chdir(tmp_path)
    assert not open_store(Path("cache.zarr")).split("train").verify()
    path.rename(tmp_path / "moved.zarr")
    assert open_store(tmp_path / "moved.zarr").split("train").verify()


def test_verify_names_the_chunks_with_a_flipped_bit(path: Path) -> None:
    split = open_store(path).split("train")
    assert split.verify()
    bad = ["embedding/c/0/2/0", "label/c/0", "norm/c/1/1"]
    for name in bad:
        flip_a_bit(path / "train" / name)
    with pytest.raises(CorruptStore) as raised:
        split.verify()
    assert "3 chunk files" in str(raised.value)
    assert all(name in str(raised.value) for name in bad)
    with pytest.raises(CorruptStore):
        split.verify()
    # and is restored as the message says
    for name in bad:
        (path / "train" / name).unlink()
    tiny_store.create(path)
    tiny_store.write(path, absent_chunks(path, "train"))
    assert open_store(path).split("train").verify()


def test_verify_of_many_bad_chunks_names_a_few(path: Path) -> None:
    for file in path.glob("train/*/c/**/*"):
        if file.is_file():
            flip_a_bit(file)
    with pytest.raises(CorruptStore, match=r"30 chunk files.* and 25 more; delete them"):
        open_store(path).split("train").verify()


def test_verify_where_nothing_can_be_recorded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    split = open_store(path).split("train")
    assert split.verify()
    assert split.verify()


def test_mapped_chunks_hold_no_file_open_and_are_unmapped(path: Path) -> None:
    """The cache of a large dataset has more chunks than a process may have open files."""
    before = len(os.listdir("/proc/self/fd"))
    split = open_store(path).split("train")
    assert Path("/proc/self/maps").read_text().count(str(path)) == len(SHAPE.chunk_keys)
    assert len(os.listdir("/proc/self/fd")) == before
    del split
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def resident_kilobytes() -> int:
    """Kilobytes of chunk files that are resident in this process's maps."""
    found, of_chunk = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:") and of_chunk:
            found += int(line.split()[1])
        elif not line.partition(" ")[0].endswith(":"):
            of_chunk = "/embedding/c/" in line
    return found


def test_a_store_is_warmed_in_the_background_if_it_fits_into_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    others = resident_kilobytes()
    split = open_store(path).split("train")
    thread = split.warm()
    assert thread is not None
    thread.join()
    # six chunks of 4096 rows x 8 float16 and a checksum: 17 pages each
    assert resident_kilobytes() - others == 6 * 17 * 4
    monkeypatch.setattr("cache.reader.available_memory", lambda: 6 * 65540 - 1)
    assert split.warm() is None
