"""What a folder at a URL is taken to hold: with its list, and as another program copied it there."""

import threading
from pathlib import Path

import pytest

from cache.archive_writer import write_archive
from cache.reader import open_store
from cache.user_folder import copy_of
from cache.writer import create_store
from pipeline.remote import remote_folder, upload
from pipeline.remote.contents import LIST
from pipeline.remote.download import copy_here, local_copy
from pipeline.remote.upload import send_rest
from tests.support.s3_server import s3
from tests.support.tiny_store import TEACHER, written
from tests.unit.pipeline.remote.test_download import SMALL, forget, visible
from tests.unit.pipeline.remote.test_upload import listed, there


def test_placeholders_of_folders_are_no_files(bucket: str, tmp_path: Path) -> None:
    written(tmp_path / "s.zarr", SMALL)
    url, remote = f"{bucket}/s.zarr", s3()
    remote.put(str(tmp_path / "s.zarr"), url, recursive=True)
    for key in ("s.zarr/", "s.zarr/train/", "s.zarr/empty/"):  # as the console of S3 makes them
        remote.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"")
    assert visible(local_copy(url)) == visible(tmp_path / "s.zarr")


def test_without_versions_sizes_show_what_has_changed(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote_folder, "VERSIONS", ())
    url, remote = f"{bucket}/d", s3()
    remote.pipe({f"{url}/dataset.json": b"{}", f"{url}/a.parquet": b"a", f"{url}/b.parquet": b"b"})
    local_copy(url)
    capfd.readouterr()
    local_copy(url)
    assert capfd.readouterr().err == ""
    remote.pipe_file(f"{url}/a.parquet", b"other")
    assert visible(local_copy(url))["a.parquet"] == b"other"
    assert "1 files" in capfd.readouterr().err


def test_no_head_is_sent_while_a_command_works_but_it_is_listed_for_a_fresh_machine(bucket: str) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    create_store(folder, TEACHER)
    (folder / "train").mkdir()
    (folder / "train" / "zarr.json").write_text("{}")  # and not yet what tells whose split it is
    upload._send(folder, threading.Event())
    assert there(url).keys() == {"train/zarr.json"}
    before = s3().info(f"{url}/{LIST}")["LastModified"]
    upload._send(folder, threading.Event())
    assert s3().info(f"{url}/{LIST}")["LastModified"] == before
    head = (folder / "zarr.json").read_bytes()
    forget(folder)
    copy_here(folder, to_write=True)
    assert (folder / "zarr.json").read_bytes() == head
    create_store(folder, TEACHER)
    send_rest(folder)
    assert there(url)["zarr.json"] == head
    assert "head" not in listed(url)


def test_an_archive_and_a_dataset_have_no_head_before_they_are_whole(bucket: str, tmp_path: Path) -> None:
    written(tmp_path / "s.zarr", SMALL)
    store = open_store(tmp_path / "s.zarr")
    write_archive(store, copy_of(f"{bucket}/a.zarr"), store.teacher)
    dataset = copy_of(f"{bucket}/d")
    dataset.mkdir()
    (dataset / "dataset.json").write_text("{}")
    (dataset / "train.beton").write_text("rows")
    for name in ("a.zarr", "d"):
        folder = copy_of(f"{bucket}/{name}")
        upload._send(folder, threading.Event())
        assert listed(f"{bucket}/{name}").keys() == {"format", "whole", "files"}
        assert not there(f"{bucket}/{name}").keys() & {"zarr.json", "dataset.json"}
