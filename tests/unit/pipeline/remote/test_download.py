"""Copying from a real S3 server over connections that break."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cache.errors import CorruptStore
from cache.layout import SplitShape
from cache.reader import open_store
from cache.user_folder import copy_of
from pipeline.errors import PipelineError, WrongUse
from pipeline.remote.contents import LIST, read_record, record_file
from pipeline.remote.download import copy_here, local_copy
from pipeline.remote.one_file import PART_BYTES, PARTS_AT_ONCE, Damaged
from pipeline.remote.remote_folder import Unreachable
from pipeline.remote.upload import send_rest
from tests.support.s3_server import Proxy, s3
from tests.support.tiny_store import contents, written

BIG = 24 << 20
SMALL = SplitShape(rows=4096 + 10, views=1, dim=8)
ROUND = PART_BYTES * PARTS_AT_ONCE


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if "/." not in f"/{name}"}


def sent(source: Path, url: str) -> str:
    """Send a folder to a URL, and forget that it was ever here."""
    folder = copy_of(url)
    shutil.copytree(source, folder)
    send_rest(folder)
    forget(folder)
    return url


def forget(folder: Path) -> None:
    shutil.rmtree(folder)
    record_file(folder).unlink()


@pytest.fixture
def store_url(bucket: str, tmp_path: Path) -> str:
    written(tmp_path / "s.zarr", SMALL)
    return sent(tmp_path / "s.zarr", f"{bucket}/a/s.zarr")


def test_a_copy_is_the_same_and_made_once(
    store_url: str, tmp_path: Path, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = local_copy(store_url)
    assert visible(copy) == visible(tmp_path / "s.zarr")
    assert open_store(copy).split("train").complete
    assert f"copied {store_url}: {len(visible(copy))} files" in capfd.readouterr().err
    times, proxy.received = {file: file.stat().st_mtime_ns for file in copy.rglob("*")}, 0
    assert local_copy(store_url) == copy
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*")} == times
    assert proxy.received < 10_000
    assert capfd.readouterr().err == ""


def test_a_connection_that_breaks_goes_on_where_it_broke(big_folder: Path, bucket: str, proxy: Proxy) -> None:
    url = sent(big_folder, f"{bucket}/big")
    proxy.reset()
    proxy.cut_received = 20 << 20
    copy = local_copy(url)
    assert proxy.cuts == 1
    assert visible(copy) == visible(big_folder)
    assert proxy.received < BIG + ROUND + (1 << 20)


@pytest.mark.long
def test_one_that_stays_broken_is_a_sentence_and_the_next_command_goes_on(
    big_folder: Path, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sent(big_folder, f"{bucket}/big")
    copy, cut = copy_of(url), proxy._is_cut

    def down_after_a_cut(of: str, count: int) -> bool:
        was_cut = cut(of, count)
        proxy.is_down |= was_cut
        return was_cut

    monkeypatch.setattr(proxy, "_is_cut", down_after_a_cut)
    proxy.reset()
    proxy.cut_received = 20 << 20
    with pytest.raises(
        Unreachable, match=r"big cannot be reached .* run the same command again, which goes on"
    ):
        copy_here(copy)
    assert not (copy / "train.beton").exists()
    assert sum(part.stat().st_size for part in copy.glob(".train.beton.*.tmp")) >= ROUND
    proxy.reset()
    copy_here(copy)
    assert proxy.received < BIG - ROUND + (1 << 20)
    assert visible(copy) == visible(big_folder)
    assert not list(copy.glob(".*.tmp"))


def test_a_changed_object_is_refused_by_name(store_url: str) -> None:
    name = "train/embedding/c/0/1/0"
    bucket = s3()
    data = bytearray(bucket.cat_file(f"{store_url}/{name}"))
    data[100] ^= 1
    bucket.pipe_file(f"{store_url}/{name}", bytes(data))
    with pytest.raises(Damaged, match=f"{store_url}/{name} is damaged .*sha256.* delete it there and run"):
        local_copy(store_url)
    assert not (copy_of(store_url) / name).exists()
    bucket.pipe_file(f"{store_url}/{name}", bytes(data[:-1]))
    with pytest.raises(Damaged, match=f"{name} is damaged .it has 65,539 bytes, expected 65,540"):
        local_copy(store_url)
    bucket.rm_file(f"{store_url}/{name}")
    with pytest.raises(Damaged, match=f"{name} is damaged .it is missing"):
        local_copy(store_url)


def test_what_was_sent_in_part_is_refused(store_url: str) -> None:
    bucket = s3()
    listed = json.loads(bucket.cat_file(f"{store_url}/{LIST}"))
    bucket.pipe_file(f"{store_url}/{LIST}", json.dumps(listed | {"whole": False}).encode())
    with pytest.raises(PipelineError, match=r"was sent in part only .* run the command that writes it again"):
        local_copy(store_url)
    bucket.pipe_file(f"{store_url}/{LIST}", b"{")
    with pytest.raises(PipelineError, match=rf"{LIST} cannot be read .* delete it"):
        local_copy(store_url)


@pytest.mark.long
def test_only_what_has_changed_is_copied_again(store_url: str, tmp_path: Path, proxy: Proxy) -> None:
    copy = local_copy(store_url)
    aside = tmp_path / "aside"
    shutil.copytree(copy, aside)
    (copy / "train" / "label" / "c" / "0").write_bytes(b"other")
    (copy / "train" / "thumb" / "c" / "0").unlink()
    send_rest(copy)
    wanted = visible(copy)
    forget(copy)
    shutil.copytree(aside, copy)  # another machine's copy, from before
    proxy.reset()
    copy_here(copy)
    assert proxy.received < 40_000
    assert visible(copy) | {"train/thumb/c/0": b""} == wanted | {"train/thumb/c/0": b""}
    copy_here(copy)
    (copy / "train" / "label" / "c" / "1").write_bytes(b"edited here")
    copy_here(copy)
    assert visible(copy)["train/label/c/1"] == wanted["train/label/c/1"]


def test_a_file_that_is_there_no_more_is_removed_and_one_not_yet_sent_is_kept(store_url: str) -> None:
    copy = local_copy(store_url)
    (copy / "val").mkdir()
    (copy / "val" / "new").write_bytes(b"not sent yet")
    bucket = s3()
    listed = json.loads(bucket.cat_file(f"{store_url}/{LIST}"))
    del listed["files"]["train/thumb/c/0"]
    bucket.pipe_file(f"{store_url}/{LIST}", json.dumps(listed).encode())
    copy_here(copy)
    assert not (copy / "train" / "thumb" / "c" / "0").exists()
    assert (copy / "val" / "new").exists()


def test_a_whole_copy_is_used_while_the_url_cannot_be_reached(
    store_url: str, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = local_copy(store_url)
    capfd.readouterr()
    proxy.is_down = True
    for connection in list(proxy.open):
        proxy._close({connection})
    assert local_copy(store_url) == copy
    assert f"warning: {store_url} cannot be reached" in (said := capfd.readouterr().err)
    assert f"its copy in {copy} is used" in said
    (copy / "train" / "label" / "c" / "0").unlink()
    with pytest.raises(Unreachable):
        local_copy(store_url)


def test_what_another_program_copied_there_is_checked_by_its_own_checksums(
    bucket: str, tmp_path: Path, proxy: Proxy
) -> None:
    store, url = tmp_path / "s.zarr", f"{bucket}/s.zarr"
    written(store, SMALL)
    remote = s3()
    remote.put(str(store), url, recursive=True)
    copy = local_copy(url)
    assert visible(copy) == visible(store)
    assert read_record(copy).whole
    proxy.reset()
    local_copy(url)
    assert proxy.received < 30_000
    data = bytearray((store / "train" / "norm" / "c" / "0" / "1").read_bytes())
    data[5] ^= 1
    remote.pipe_file(f"{url}/train/norm/c/0/1", bytes(data))
    with pytest.raises(CorruptStore, match=r"norm/c/0/1"):
        local_copy(url)
    with pytest.raises(CorruptStore, match=r"norm/c/0/1"):  # it is not kept as a whole copy
        local_copy(url)


def test_a_store_within_the_folder_of_a_dataset_is_not_part_of_it(bucket: str, big_folder: Path) -> None:
    remote = s3()
    remote.pipe(
        {
            f"{bucket}/d/dataset.json": b"{}",
            f"{bucket}/d/c.zarr/zarr.json": b"{}",
            f"{bucket}/d/a.parquet": b"a",
        }
    )
    assert sorted(visible(local_copy(f"{bucket}/d"))) == ["a.parquet", "dataset.json"]


def test_what_is_no_store_is_a_sentence(bucket: str) -> None:
    with pytest.raises(WrongUse, match=f"there is nothing at {bucket}/none: check the name"):
        local_copy(f"{bucket}/none")
    s3().pipe_file(f"{bucket}/notes/a.txt", b"a")
    with pytest.raises(WrongUse, match="notes is neither a cache nor a dataset"):
        local_copy(f"{bucket}/notes")
    with pytest.raises(WrongUse, match=r"bucket does not exist.*a bucket has to be created first"):
        local_copy("s3://no-such-bucket/x.zarr")
    assert not (copy_of(f"{bucket}/notes")).exists()


def test_names_that_lead_elsewhere_are_refused(store_url: str) -> None:
    bucket = s3()
    listed = json.loads(bucket.cat_file(f"{store_url}/{LIST}"))
    for name in ("../x", "/x", "a/../../x", ".hidden", "a//b"):
        listed["files"] = {name: [1, "0"]}
        bucket.pipe_file(f"{store_url}/{LIST}", json.dumps(listed).encode())
        with pytest.raises(PipelineError, match="cannot be copied"):
            local_copy(store_url)


def test_a_full_disk_is_a_sentence(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PipelineError, match="No space left on device; free some room, or set XDG_CACHE_HOME"):
        local_copy(store_url)
