"""Processes that copy and send: killed ones, and several at a time."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.user_folder import copy_of
from pipeline.remote.download import copy_here
from pipeline.remote.upload import send_rest
from tests.support.s3_server import Proxy
from tests.support.tiny_store import written
from tests.unit.pipeline.remote.test_download import BIG, ROUND, SMALL, sent, visible
from tests.unit.pipeline.remote.test_upload import listed, there

COPY = "import sys; from pipeline.remote.download import local_copy; print(local_copy(sys.argv[1]))"
SEND = """
import sys
from pathlib import Path
from pipeline.remote import upload
upload.LIST_EVERY_S = upload.LIST_SHARE = 0
upload.send_rest(Path(sys.argv[1]))
"""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    for _ in range(2000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.long
def test_a_killed_copying_goes_on_where_it_was(big_folder: Path, bucket: str, proxy: Proxy) -> None:
    url = sent(big_folder, f"{bucket}/big")
    copy = copy_of(url)
    proxy.reset()
    proxy.pause = 0.01  # 24 MiB take seconds
    process = subprocess.Popen(
        [sys.executable, "-c", COPY, url], stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    wait_for(lambda: any(part.stat().st_size >= ROUND for part in copy.glob(".train.beton.*.tmp")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (copy / "train.beton").exists()
    proxy.reset()
    copy_here(copy)
    assert proxy.received < BIG - ROUND + (1 << 20)
    assert visible(copy) == visible(big_folder)


@pytest.mark.long
def test_of_several_processes_one_copies(big_folder: Path, bucket: str, proxy: Proxy) -> None:
    url = sent(big_folder, f"{bucket}/big")
    proxy.reset()
    proxy.pause = 0.002
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COPY, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [out.strip() for out, _ in outputs] == [str(copy_of(url))] * 2
    assert sorted("copied s3" in err for _, err in outputs) == [False, True]
    assert proxy.received < BIG + (1 << 20)
    assert visible(copy_of(url)) == visible(big_folder)


@pytest.mark.long
def test_a_killed_sending_goes_on_from_what_is_there(bucket: str, proxy: Proxy) -> None:
    url = f"{bucket}/s.zarr"
    folder = copy_of(url)
    written(folder, SMALL)
    proxy.pause = 0.02
    process = subprocess.Popen([sys.executable, "-c", SEND, str(folder)], stderr=subprocess.PIPE)
    wait_for(lambda: proxy.sent > 150_000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    proxy.reset()
    before = listed(url)
    assert not before["whole"]
    assert before["files"]
    copy_here(folder, to_write=True)
    proxy.reset()
    send_rest(folder)
    wanted = visible(folder)
    assert (
        proxy.sent < sum(len(data) for name, data in wanted.items() if name not in before["files"]) + 60_000
    )
    assert there(url) == wanted
    assert listed(url)["whole"]
