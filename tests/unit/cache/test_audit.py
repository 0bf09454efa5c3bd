"""Random corruptions of a store: each is found, by name, and nothing else is."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.audit import Fault, audit, remove_chunks
from cache.durable import write_file
from cache.errors import CorruptStore, FormatMismatch, NotAStore
from cache.identity import identity_id
from cache.layout import ChunkKey
from cache.writer import absent_chunks, write_chunk
from tests.support import tiny_store
from tests.support.damage import extend, flip, truncate, zero
from tests.support.tiny_store import SHAPE

CASES = 40  # of each kind of damage


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An intact store; each test restores what it changes."""
    path = tmp_path_factory.mktemp("audit") / "cache.zarr"
    tiny_store.written(path)
    return path


@pytest.fixture(scope="module")
def files(path: Path) -> dict[str, bytes]:
    """All chunk files, including the ledger's."""
    return {name: data for name, data in tiny_store.contents(path).items() if "/c/" in name}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store of the same layout with other, intact chunks."""
    path = tmp_path_factory.mktemp("others") / "cache.zarr"
    tiny_store.create(path)
    for key in SHAPE.chunk_keys:
        rows = tiny_store.chunk_of(SHAPE, key)
        rows.embedding[:] = -rows.embedding
        rows.norm[:] *= 2
        rows.crop[:] = 1 - rows.crop
        write_chunk(path, "train", key, rows)
    return tiny_store.contents(path)


def found(path: Path) -> set[str]:
    return {f"{fault.split}/{fault.file}" for fault in audit(path).faults}


@pytest.mark.parametrize("damage", [flip, truncate, extend, zero])
def test_every_damaged_file_is_found_and_no_other(
    path: Path, files: dict[str, bytes], damage: Callable[[random.Random, bytes], bytes]
) -> None:
    draw = random.Random(0)
    for _ in range(CASES):
        name = draw.choice(sorted(files))
        (path / name).write_bytes(damage(draw, files[name]))
        assert found(path) == {name}
        (path / name).write_bytes(files[name])
    assert found(path) == set()


def test_every_missing_file_is_found(path: Path, files: dict[str, bytes]) -> None:
    for name in files:
        (path / name).unlink()
        assert found(path) == {name}
        (path / name).write_bytes(files[name])


def test_every_swapped_pair_is_found_although_both_files_are_sound(
    path: Path, files: dict[str, bytes]
) -> None:
    pairs = [
        (one, other)
        for one in files
        for other in files
        if one < other and len(files[one]) == len(files[other]) and files[one] != files[other]
    ]
    # of equal size: among 6 chunks of 5 columns, and among 3 chunks of 3 columns
    assert len(pairs) > 60
    for one, other in pairs:
        (path / one).write_bytes(files[other])
        (path / other).write_bytes(files[one])
        assert found(path) == {one, other}
        for name in (one, other):
            (path / name).write_bytes(files[name])


def test_whole_chunks_that_are_swapped_with_their_ledger_are_found(
    path: Path, files: dict[str, bytes]
) -> None:
    one, other = (
        [name for name in sorted(files) if f"/c/0/{index}" in name and "row_" not in name] for index in (0, 1)
    )
    assert len(one) == len(other) == 5
    for first, second in zip(one, other, strict=True):
        (path / first).write_bytes(files[second])
        (path / second).write_bytes(files[first])
    assert found(path) == {"train/checksum/c/0/0/0", "train/checksum/c/0/1/0"}
    for name in (*one, *other):
        (path / name).write_bytes(files[name])


def test_files_of_another_store_are_found_although_they_are_sound(
    path: Path, files: dict[str, bytes], others: dict[str, bytes]
) -> None:
    differing = [name for name in files if others[name] != files[name]]
    assert len(differing) == 24  # norm, crop, embedding and ledger of six chunks
    for name in differing:
        (path / name).write_bytes(others[name])
        assert found(path) == {name} if "checksum" not in name else len(found(path)) == 3
        (path / name).write_bytes(files[name])


def test_files_among_the_chunks_that_are_no_chunks_are_found(path: Path, files: dict[str, bytes]) -> None:
    strangers = [
        "train/embedding/c/0/3/0",
        "train/embedding/c/2/0/0",
        "train/norm/c/0/copy",
        "train/label/c/1~",
    ]
    for name in strangers:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(files["train/embedding/c/0/0/0"])
    # the temporary file of a running writer is no fault
    (path / "train/norm/c/0/.1~host~1~0badcafe.tmp").write_bytes(b"")
    faults = audit(path).faults
    assert {f"train/{fault.file}" for fault in faults} == set(strangers)
    assert all(fault.key is None for fault in faults)
    remove_chunks(path, faults)
    (path / "train/norm/c/0/.1~host~1~0badcafe.tmp").unlink()
    assert {name: data for name, data in tiny_store.contents(path).items() if "/c/" in name} == files


def test_a_chunk_without_any_file_is_one_fault(path: Path, files: dict[str, bytes]) -> None:
    gone = [name for name in files if "/c/1/2" in name]
    for name in gone:
        (path / name).unlink()
    (fault,) = audit(path).faults
    assert (fault.key, fault.rows) == (ChunkKey(1, 2), range(8192, 8292))
    assert str(fault) == (
        "train/embedding/c/1/2/0 (view 1, rows 8192 to 8291) is not there, nor is any file of its chunk: "
        "it was not written yet, or was deleted"
    )
    for name in gone:
        (path / name).write_bytes(files[name])


def test_the_message_of_a_fault(path: Path, files: dict[str, bytes]) -> None:
    damaged = {"norm/c/0/0": b"short", "status/c/1/1": bytes(len(files["train/status/c/1/1"]))}
    for name, data in damaged.items():
        (path / "train" / name).write_bytes(data)
    messages = sorted(str(fault) for fault in audit(path).faults)
    assert (
        messages[0] == "train/norm/c/0/0 (view 0, rows 0 to 4095) has another size than it was written with"
    )
    assert messages[1].startswith(
        "train/status/c/1/1 (view 1, rows 4096 to 8191) has changed: expected crc32c 00000000"
    )
    for name in damaged:
        (path / "train" / name).write_bytes(files[f"train/{name}"])


def test_what_is_removed_is_the_whole_chunk_and_no_more(path: Path, files: dict[str, bytes]) -> None:
    faults = [
        Fault(split="train", file="norm/c/1/2", reason="", key=ChunkKey(1, 2)),
        Fault(split="train", file="thumb/c/1", reason="", key=ChunkKey(0, 1)),
    ]
    remove_chunks(path, faults)
    left = {name for name in tiny_store.contents(path) if "/c/" in name}
    rows = {"train/label/c/1", "train/thumb/c/1", "train/row_checksum/c/1/0"}
    assert files.keys() - left == {name for name in files if "/c/1/2" in name} | rows
    assert absent_chunks(path, "train") == [ChunkKey(1, 2)]
    tiny_store.create(path)
    tiny_store.write(path, [ChunkKey(1, 2)])
    assert {name: data for name, data in tiny_store.contents(path).items() if "/c/" in name} == files


def test_a_store_without_a_ledger_is_intact_and_reported_as_such(path: Path, tmp_path: Path) -> None:
    assert audit(path).without_ledger == ()
    shutil.copytree(path, tmp_path / "old.zarr")
    for name in ("checksum", "row_checksum"):
        shutil.rmtree(tmp_path / "old.zarr/train" / name)
    done = audit(tmp_path / "old.zarr")
    assert (done.faults, done.without_ledger, done.files) == ((), ("train",), 30)
    os.truncate(tmp_path / "old.zarr/train/crop/c/0/1/0", 10)
    assert found(tmp_path / "old.zarr") == {"train/crop/c/0/1/0"}


def test_edited_attributes_are_found(path: Path, tmp_path: Path) -> None:
    for part, edit, expected in (
        ("", lambda of: of["teacher"]["preprocessing"].update(resize=232), "were edited"),
        ("", lambda of: of.update(id=identity_id(of["teacher"] | {"weights": "2" * 64})), "were edited"),
        ("train", lambda of: of["dataset"].update(images="2" * 64), None),
    ):
        shutil.copytree(path, tmp_path / "edited.zarr")
        file = tmp_path / "edited.zarr" / part / "zarr.json"
        metadata = json.loads(file.read_text())
        edit(metadata["attributes"]["anchorage"])
        write_file(file, json.dumps(metadata).encode())
        if expected:
            with pytest.raises(CorruptStore, match=expected):
                audit(tmp_path / "edited.zarr")
        else:
            # every chunk was written for another dataset
            assert len(found(tmp_path / "edited.zarr")) == len(SHAPE.chunk_keys) + SHAPE.chunks
        shutil.rmtree(tmp_path / "edited.zarr")


@pytest.mark.parametrize(
    ("array", "field", "value"),
    [
        ("norm", "fill_value", 0.0),
        ("embedding", "chunk_key_encoding", {"name": "default", "configuration": {"separator": "."}}),
        ("checksum", "data_type", "int32"),
        ("row_checksum", "shape", [2, 3]),
        ("label", "codecs", []),
    ],
)
def test_edited_array_metadata_is_found(
    path: Path, tmp_path: Path, array: str, field: str, value: object
) -> None:
    shutil.copytree(path, tmp_path / "edited.zarr")
    file = tmp_path / "edited.zarr/train" / array / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(FormatMismatch, match=array):
        audit(tmp_path / "edited.zarr")


def test_a_split_without_metadata_and_a_store_without_splits_are_reported(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "lost.zarr")
    (tmp_path / "lost.zarr/train/zarr.json").unlink()
    with pytest.raises(CorruptStore, match=r"train has lost its zarr.json"):
        audit(tmp_path / "lost.zarr")
    shutil.rmtree(tmp_path / "lost.zarr/train")
    with pytest.raises(NotAStore, match="has no split yet"):
        audit(tmp_path / "lost.zarr")


def test_progress_is_reported_chunk_by_chunk(path: Path) -> None:
    calls: list[tuple[int, int]] = []
    done = audit(path, lambda done, total: calls.append((done, total)))
    # six chunks, and the labels and thumbs of three
    assert calls == [(count, 9) for count in range(1, 10)]
    assert done.files == 6 * 5 + 3 * 3
