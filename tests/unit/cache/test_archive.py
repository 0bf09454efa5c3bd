"""Archives: compressed stores that are decoded once, whole or not at all."""

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.archive import decoded_copy
from cache.archive_writer import rounded, write_archive
from cache.audit import audit
from cache.errors import CorruptStore, FormatMismatch, StoreError
from cache.layout import INT8, ChunkKey, SplitShape, Status
from cache.reader import open_store
from cache.writer import ChunkRows, create_split, create_store, write_chunk
from tests.support import tiny_store
from tests.support.tiny_store import SHAPE, TEACHER, contents

FEW = SplitShape(rows=300, views=2, dim=16, encoding=INT8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tiny_store.written(tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


@pytest.fixture
def archive(store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "archive.zarr"
    write_archive(open_store(store), path, TEACHER)
    return path


def files_of(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(store).items() if not Path(name).name.startswith(".")}


def test_an_archive_opens_as_the_same_store_bit_for_bit(store: Path, archive: Path) -> None:
    opened = open_store(archive)
    assert opened.id == open_store(store).id
    assert files_of(opened.path) == files_of(store)
    assert sum(map(len, contents(archive).values())) < sum(map(len, contents(store).values()))


def test_int8_stays_int8(tmp_path: Path) -> None:
    tiny_store.written(tmp_path / "store.zarr", FEW)
    write_archive(open_store(tmp_path / "store.zarr"), tmp_path / "archive.zarr", TEACHER)
    assert files_of(open_store(tmp_path / "archive.zarr").path) == files_of(tmp_path / "store.zarr")


def test_chunks_without_a_label_or_an_embedding_are_kept(tmp_path: Path) -> None:
    """Their rows all equal the fill value, and zarr leaves such chunks out unless it is told not to."""
    path, rows = tmp_path / "store.zarr", 4096 + 50
    create_store(path, TEACHER)
    create_split(
        path,
        "train",
        dataset=tiny_store.dataset_of(FEW),
        rows=rows,
        views=1,
        dim=4,
        labels=np.full(rows, -1),
        thumbs=np.zeros(rows, np.uint64),
    )
    for index, count in enumerate((4096, 50)):
        nothing = np.full((count, 4), np.nan, np.float16)
        norm, crop = np.full(count, np.nan, np.float32), np.full((count, 5), np.nan, np.float32)
        status = np.full(count, Status.UNREADABLE, np.uint8)
        chunk = ChunkRows(embedding=nothing, norm=norm, crop=crop, status=status)
        write_chunk(path, "train", ChunkKey(0, index), chunk)
    write_archive(open_store(path), tmp_path / "archive.zarr", TEACHER)
    assert audit(tmp_path / "archive.zarr").faults == ()
    assert files_of(open_store(tmp_path / "archive.zarr").path) == files_of(path)


def test_swapped_chunks_are_found(archive: Path) -> None:
    one, two = (archive / "train" / "embedding" / "c" / "0" / f"{index}" / "0" for index in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert [(fault.split, fault.file) for fault in audit(archive).faults] == [("train", "embedding")]
    with pytest.raises(CorruptStore, match="chunk 0 of view 0 is another's"):
        open_store(archive)


def test_a_copy_that_lost_a_split_is_decoded_again(archive: Path, store: Path) -> None:
    shutil.rmtree(decoded_copy(archive) / "train")
    assert files_of(open_store(archive).path) == files_of(store)


def test_a_cache_folder_that_cannot_be_written_is_said(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(
        StoreError, match=r"cannot be decoded into .*: set XDG_CACHE_HOME to a folder with room"
    ):
        open_store(archive)


def test_it_is_decoded_once_and_a_cut_short_decoding_goes_on(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = decoded_copy(archive)
    whole = files_of(copy)
    assert capsys.readouterr().err.count("decoding") == 1
    open_store(archive)
    assert capsys.readouterr().err == ""
    for name in (".decoded", "train/embedding/c/1/1/0", "train/status/c/0/2"):
        (copy / name).unlink()
    assert decoded_copy(archive) == copy
    assert files_of(copy) == whole


def test_a_new_archive_at_the_same_path_is_decoded_anew(store: Path, archive: Path) -> None:
    first = decoded_copy(archive)
    shutil.rmtree(archive)
    write_archive(open_store(store), archive, TEACHER)
    assert decoded_copy(archive) != first


def opened_in_a_process(archive: str) -> str:
    return str(open_store(Path(archive)).path)


def test_processes_at_the_same_time_share_one_copy(archive: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = set(pool.map(opened_in_a_process, [str(archive)] * 3))
    assert found == {str(decoded_copy(archive))}
    assert open_store(archive).split("train").complete


def test_fewer_bits_round_to_the_nearest_and_shrink(store: Path, tmp_path: Path) -> None:
    split = open_store(store).split("train")
    rows = split.gather(split.eligible())
    kept = rounded(rows, 4)
    # values below 2**-14 have fewer bits already
    np.testing.assert_allclose(kept.astype(np.float64), rows.astype(np.float64), rtol=2**-5, atol=2**-19)
    assert (kept.view(np.uint16) & 0b111111 == 0).all()
    sizes = []
    for bits in (None, 4):
        write_archive(open_store(store), tmp_path / f"{bits}.zarr", TEACHER, bits)
        sizes.append(sum(map(len, contents(tmp_path / f"{bits}.zarr" / "train" / "embedding").values())))
    assert sizes[1] < 0.7 * sizes[0]
    opened = open_store(tmp_path / "4.zarr").split("train")
    np.testing.assert_array_equal(opened.gather(split.eligible()), kept)
    np.testing.assert_array_equal(opened.status, split.status)


@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_damage_is_found_and_named(archive: Path, damage: str) -> None:
    file = archive / "train" / "embedding" / "c" / "0" / "1" / "0"
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data[:-9] if damage == "cut" else data[:50] + bytes([data[50] ^ 4]) + data[51:])
    assert [(fault.split, fault.file) for fault in audit(archive).faults] == [("train", "embedding")]
    with pytest.raises(
        CorruptStore, match=r"train/embedding of the archive is damaged .* fetch or make it again"
    ):
        open_store(archive)


def test_a_sound_archive_has_no_fault(archive: Path) -> None:
    found = audit(archive)
    assert (found.faults, found.without_ledger) == ((), ())
    assert found.bytes == sum(map(len, contents(archive).values()))


def test_an_archive_is_not_written_into_and_not_written_over(store: Path, archive: Path) -> None:
    with pytest.raises(
        FormatMismatch, match="is an archive, which is only read as a whole; make a store of it"
    ):
        create_store(archive, TEACHER)
    with pytest.raises(StoreError, match="exists already: name another path"):
        write_archive(open_store(store), archive, TEACHER)


def test_a_failed_write_leaves_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: np.ndarray, bits: int) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cache.archive_writer.rounded", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match="No space left on device; fix the cause and try again"):
        write_archive(open_store(store), tmp_path / "new.zarr", TEACHER, 4)
    assert sorted(tmp_path.iterdir()) == before
    assert SHAPE.rows_of(ChunkKey(0, 0)) == range(4096)
