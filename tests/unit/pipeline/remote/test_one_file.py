"""Partial files that are wrong, files that change there while they are copied, and disks without room."""

import shutil
from pathlib import Path

import pytest

from cache.user_folder import copy_of
from pipeline.errors import PipelineError
from pipeline.remote import download
from pipeline.remote.contents import Contents, Entry, read_contents, record_file
from pipeline.remote.download import local_copy
from pipeline.remote.one_file import Damaged, part_of
from pipeline.remote.remote_folder import RemoteFolder
from pipeline.remote.upload import send_rest
from tests.support.s3_server import s3
from tests.support.tiny_store import written
from tests.unit.pipeline.remote.test_download import SMALL, sent, visible

NAME = "train/embedding/c/0/1/0"


@pytest.fixture
def store_url(bucket: str, tmp_path: Path) -> str:
    written(tmp_path / "s.zarr", SMALL)
    return sent(tmp_path / "s.zarr", f"{bucket}/a/s.zarr")


def leave_zeros(url: str, name: str, entry: Entry, count: int) -> Path:
    """Leave a partial file as a power cut does: with its length, and without its bytes."""
    part = part_of(copy_of(url) / name, entry)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(count))
    return part


@pytest.mark.parametrize("missing", [0, 1000])
def test_a_damaged_partial_file_is_fetched_anew(store_url: str, tmp_path: Path, missing: int) -> None:
    entry = read_contents(RemoteFolder(store_url)).files[NAME]
    part = leave_zeros(store_url, NAME, entry, entry.size - missing)
    assert visible(local_copy(store_url)) == visible(tmp_path / "s.zarr")
    assert not part.exists()


def test_damage_there_is_not_hidden_by_a_partial_file(store_url: str) -> None:
    entry = read_contents(RemoteFolder(store_url)).files[NAME]
    s3().pipe_file(f"{store_url}/{NAME}", bytes(entry.size))
    part = leave_zeros(store_url, NAME, entry, 1000)
    with pytest.raises(Damaged, match=f"{NAME} is damaged .*sha256"):
        local_copy(store_url)
    assert not part.exists()


def test_without_a_sha256_a_partial_file_of_another_process_is_not_used(bucket: str) -> None:
    url = f"{bucket}/d"
    s3().pipe({f"{url}/dataset.json": b"{}", f"{url}/a.parquet": b"a" * 5000})
    leave_zeros(url, "a.parquet", read_contents(RemoteFolder(url)).files["a.parquet"], 4000)
    assert visible(local_copy(url))["a.parquet"] == b"a" * 5000


@pytest.mark.parametrize("data", [b"other, and longer than before", None])
def test_a_file_that_is_replaced_while_it_is_copied_is_not_called_damaged(
    store_url: str, data: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "train/label/c/0"
    replaced: list[bytes] = []

    def replaced_after_the_first(remote: RemoteFolder) -> Contents:
        found = read_contents(remote)
        if not replaced:
            replaced.append(data or bytes(found.files[name].size))
            with monkeypatch.context() as patch:  # its owner, on another machine
                patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-home"))
                owned = local_copy(store_url)
                (owned / name).write_bytes(replaced[0])
                send_rest(owned)
        return found

    monkeypatch.setattr(download, "read_contents", replaced_after_the_first)
    assert (local_copy(store_url) / name).read_bytes() == replaced[0]


def test_a_disk_without_room_is_a_sentence_before_anything_is_copied(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(PipelineError, match=r"needs .* KiB more, but .* has only 10 bytes left: free some"):
        local_copy(store_url)
    assert not copy_of(store_url).exists()


def test_what_is_here_needs_no_room(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = local_copy(store_url)
    record_file(copy).unlink()
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert local_copy(store_url) == copy
