"""Sending to a real S3 server over connections that break."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from cache.layout import ChunkKey
from cache.user_folder import copy_of
from pipeline.errors import PipelineError
from pipeline.remote import remote_folder, upload
from pipeline.remote.contents import LIST
from pipeline.remote.download import copy_here, local_copy
from pipeline.remote.remote_folder import RemoteFolder, Unreachable
from pipeline.remote.upload import send_rest, sent_meanwhile
from tests.support.s3_server import Proxy, s3
from tests.support.tiny_store import create, write, written
from tests.unit.pipeline.remote.test_download import BIG, SMALL, forget, visible


def there(url: str) -> dict[str, bytes]:
    """Return the bytes of every object at a URL but the list."""
    bucket = s3()
    start = url.removeprefix("s3://") + "/"
    names = [name for name in bucket.find(url) if not name.endswith(LIST)]
    return {name.removeprefix(start): bucket.cat_file(name) for name in names}


def listed(url: str) -> dict:
    return json.loads(s3().cat_file(f"{url}/{LIST}"))


def test_what_is_there_is_what_was_here_and_a_second_time_sends_nothing(
    bucket: str, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    written(folder, SMALL)
    (folder / ".lock").write_text("")
    send_rest(folder)
    assert there(url) == visible(folder)
    assert listed(url)["whole"] is True
    assert listed(url)["files"].keys() == visible(folder).keys()
    assert f"sent {url}: {len(visible(folder))} files" in capfd.readouterr().err
    proxy.reset()
    copy_here(folder, to_write=True)
    send_rest(folder)
    assert proxy.sent < 5000
    assert capfd.readouterr().err == ""


def test_the_head_comes_after_all_else_and_the_list_at_the_very_end(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    send, write_file = RemoteFolder.send, RemoteFolder.write

    def noting_send(self: RemoteFolder, name: str, *rest: object) -> None:
        send(self, name, *rest)  # type: ignore[arg-type]
        order.append(name)

    def noting_write(self: RemoteFolder, name: str, data: bytes) -> None:
        write_file(self, name, data)
        order.append(f"whole {json.loads(data)['whole']}")

    monkeypatch.setattr(RemoteFolder, "send", noting_send)
    monkeypatch.setattr(RemoteFolder, "write", noting_write)
    folder = copy_of(f"{bucket}/s.zarr")
    written(folder, SMALL)
    send_rest(folder)
    assert order[0] == "whole False"
    assert order[-3:] == ["zarr.json", "whole False", "whole True"]
    order.clear()
    (folder / "val").mkdir()
    (folder / "val" / "zarr.json").write_text("{}")
    send_rest(folder)
    assert order == ["whole False", "val/zarr.json", "whole False", "whole True"]


def test_a_connection_that_breaks_goes_on(big_folder: Path, bucket: str, proxy: Proxy) -> None:
    url = f"{bucket}/big"
    shutil.copytree(big_folder, copy_of(url))
    proxy.cut_sent = 3000
    send_rest(copy_of(url))
    assert proxy.cuts == 1
    assert there(url) == visible(big_folder)
    assert proxy.sent < BIG + (1 << 20)


@pytest.mark.long
def test_one_that_stays_broken_is_half_sent_and_the_next_command_goes_on(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    written(folder, SMALL)
    monkeypatch.setattr(upload, "LIST_EVERY_S", 0)
    monkeypatch.setattr(upload, "LIST_SHARE", 0)
    send, broken = RemoteFolder.send, threading.Event()

    def until_it_breaks(self: RemoteFolder, name: str, *rest: object) -> None:
        if name == "train/embedding/c/0/1/0":
            for _ in range(500):
                if len(listed(url)["files"]) > 20:
                    break
                threading.Event().wait(0.02)
            broken.set()
            proxy.is_down = True
            for connection in list(proxy.open):
                proxy._close({connection})
        send(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RemoteFolder, "send", until_it_breaks)
    with pytest.raises(
        Unreachable, match=r"cannot be reached .* all that was computed is kept on this machine"
    ):
        send_rest(folder)
    assert broken.is_set()
    monkeypatch.setattr(RemoteFolder, "send", send)
    proxy.reset()
    before = listed(url)
    assert not before["whole"]
    assert len(before["files"]) > 20
    wanted = visible(folder)
    elsewhere = copy_of(url).with_name("elsewhere.zarr")
    folder.rename(elsewhere)
    with pytest.raises(PipelineError, match="was sent in part only"):
        local_copy(url)
    elsewhere.rename(folder)
    monkeypatch.setattr(upload, "LIST_EVERY_S", 60)
    proxy.reset()
    copy_here(folder, to_write=True)
    send_rest(folder)
    left = sum(len(data) for name, data in wanted.items() if name not in before["files"])
    assert proxy.sent < left + 100_000 < sum(map(len, wanted.values()))
    assert there(url) == wanted
    assert listed(url)["whole"]


@pytest.mark.long
def test_a_fresh_machine_goes_on_with_what_was_sent(bucket: str) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    create(folder, SMALL)
    write(folder, SMALL.chunk_keys[:1], SMALL)
    with sent_meanwhile(folder):
        upload._send(folder, threading.Event())
    assert not listed(url)["whole"]
    assert "zarr.json" not in there(url)
    sent_so_far = visible(folder)
    forget(folder)
    copy_here(folder, to_write=True)
    assert visible(folder) == sent_so_far
    write(folder, SMALL.chunk_keys[1:], SMALL)
    send_rest(folder)
    assert visible(local_copy(url)) == there(url)
    assert listed(url)["whole"]


@pytest.mark.long
def test_files_are_sent_while_a_command_works(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MEANWHILE_S", 0.05)
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    bucket_of = s3()
    with sent_meanwhile(folder):
        create(folder, SMALL)
        write(folder, [ChunkKey(0, 0)], SMALL)
        for _ in range(500):
            if bucket_of.exists(f"{url}/train/embedding/c/0/0/0"):
                break
            threading.Event().wait(0.02)
    assert "train/embedding/c/0/0/0" in there(url)
    assert not listed(url)["whole"]


def test_a_sending_meanwhile_that_fails_is_a_warning(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upload, "MEANWHILE_S", 0.01)
    monkeypatch.setattr(remote_folder, "TRIES", 1)
    folder = copy_of("s3://no-such-bucket/s.zarr")
    with sent_meanwhile(folder):
        create(folder, SMALL)
        for _ in range(500):
            if "warning: s3://no-such-bucket/s.zarr cannot be used" in (said := capfd.readouterr().err):
                break
            threading.Event().wait(0.02)
    assert f"what is computed stays in {folder}" in said


@pytest.mark.long
def test_a_damaged_object_is_left_out_and_sent_again(bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    written(folder, SMALL)
    wanted = visible(folder)
    send_rest(folder)
    name = "train/embedding/c/0/1/0"
    remote = s3()
    remote.pipe_file(f"{url}/{name}", bytes(len(wanted[name])))
    forget(folder)
    copy_here(folder, to_write=True)
    assert f"warning: {name} is left out" in capfd.readouterr().err
    assert visible(folder).keys() == wanted.keys() - {name}
    write(folder, [ChunkKey(0, 1)], SMALL)
    send_rest(folder)
    assert there(url) == wanted
    remote.rm_file(f"{url}/{name}")
    copy_here(folder, to_write=True)  # the file is still here
    send_rest(folder)
    assert there(url) == wanted


def test_what_did_not_arrive_is_not_called_whole(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    written(folder, SMALL)
    send = RemoteFolder.send

    def losing(self: RemoteFolder, name: str, *rest: object) -> None:
        if name != "train/status/c/0/0":
            send(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RemoteFolder, "send", losing)
    with pytest.raises(
        PipelineError, match=r"1 files have not arrived .* such as train/status/c/0/0: run the same"
    ):
        send_rest(folder)
    assert not listed(url)["whole"]
