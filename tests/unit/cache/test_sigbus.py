"""A mapped chunk file is truncated: reading it raises an error, and the process lives on.

Each case runs in a process of its own, because a faulty handler would end it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cache.layout import SplitShape
from tests.support.tiny_store import written

SHAPE = SplitShape(rows=3000, views=1, dim=512)  # one chunk of 4 MiB
BEGIN = """
import os, sys, threading
from pathlib import Path
import numpy as np
from cache import sigbus
from cache.errors import CorruptStore
from cache.reader import open_store

store = Path(sys.argv[1])
chunk = store / "train/embedding/c/0/0/0"
rows = np.arange(0, 3000, 7)
split = open_store(store).split("train")
sound = split.gather(rows)

def message_of(call):
    try:
        call()
    except CorruptStore as error:
        return str(error)
    return "nothing"
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    written(tmp_path / "cache.zarr", SHAPE)
    return tmp_path / "cache.zarr"


def run(store: Path, code: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", BEGIN + code, str(store)]
    return subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[3])


def lines(store: Path, code: str) -> list[str]:
    done = run(store, code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_rows_that_are_gone_are_an_error_and_the_process_lives_on(store: Path) -> None:
    code = """
os.truncate(chunk, 1 << 20)
print(message_of(lambda: split.gather(rows)))
print(message_of(lambda: split.gather(rows[:5])))
"""
    first, second = lines(store, code)
    assert first == (
        f"{store}/train/embedding/c/0/0/0 was cut short, or its disk failed, while it was read, and nothing that was "
        "read since is kept; run the command that wrote the store again to rewrite this chunk"
    )
    # rows that still exist are refused as well, as long as this map is open
    assert second == first


def test_it_is_an_error_in_any_thread(store: Path) -> None:
    code = """
os.truncate(chunk, 0)
messages = []
threads = [threading.Thread(target=lambda: messages.append(message_of(lambda: split.gather(rows)))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(messages), all("was cut short" in each for each in messages))
"""
    assert lines(store, code) == ["8 True"]


def test_a_restored_store_is_read_after_it_is_opened_again(store: Path) -> None:
    code = """
data = chunk.read_bytes()
os.truncate(chunk, 0)
print("cut short" in message_of(lambda: split.gather(rows)))
del split
chunk.write_bytes(data)
split = open_store(store).split("train")
print((split.gather(rows).view(np.uint16) == sound.view(np.uint16)).all())
"""
    assert lines(store, code) == ["True", "True"]


def test_truncation_within_a_page_is_detected_by_the_size(store: Path) -> None:
    code = """
os.truncate(chunk, chunk.stat().st_size - 3)
print(message_of(sigbus.require_intact_maps))
print("was cut short" in message_of(sigbus.require_intact_files))
chunk.unlink()
found, expected = split.gather(rows[:100]), sound[:100]
print(message_of(sigbus.require_intact_files), (found.view(np.uint16) == expected.view(np.uint16)).all())
"""
    # a deleted file stays mapped
    assert lines(store, code) == ["nothing", "True", "nothing True"]


def test_many_maps_come_and_go(store: Path) -> None:
    """The table drops maps that are closed, and among hundreds of stores the right one is named."""
    code = """
files_of_a_split = len(sigbus._watched)
maps = [open_store(store).split("train") for _ in range(300)]
other = store.with_name("other.zarr")
import shutil
shutil.copytree(store, other)
del maps[::2]
mine = open_store(other).split("train")
print(len(sigbus._watched) == files_of_a_split * (1 + 150 + 1))
os.truncate(other / "train/embedding/c/0/0/0", 4096)
print(message_of(lambda: mine.gather(rows)).split(" was")[0] == str(other / "train/embedding/c/0/0/0"))
del mine
print(message_of(lambda: split.gather(rows)))
maps.clear()
print(len(sigbus._watched) == files_of_a_split > 0)
"""
    assert lines(store, code) == ["True", "True", "nothing", "True"]


def test_a_fault_in_any_other_map_ends_the_process_as_usual(store: Path) -> None:
    code = """
import mmap
file = store.with_name("file")
file.write_bytes(bytes(100000))
with file.open("rb") as stream:
    held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
os.truncate(file, 0)
print("before", flush=True)
held[50000]
print("after", flush=True)
"""
    done = run(store, code)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "before\n")


def test_a_handler_that_was_there_before_gets_the_other_faults(store: Path) -> None:
    code = "import faulthandler; faulthandler.enable()\n" + BEGIN
    other = """
import mmap
file = store.with_name("file")
file.write_bytes(bytes(100000))
with file.open("rb") as stream:
    held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
os.truncate(file, 0)
held[50000]
"""
    program = [sys.executable, "-c", code + other, str(store)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr


def test_after_a_fork_each_process_counts_for_itself(store: Path) -> None:
    code = """
child = os.fork()
if not child:
    os.truncate(chunk, 0)
    os._exit("cut short" not in message_of(lambda: split.gather(rows)))
print(os.waitpid(child, 0)[1], message_of(sigbus.require_intact_maps))
print("cut short" in message_of(lambda: split.gather(rows)))
"""
    assert lines(store, code) == ["0 nothing", "True"]


def test_no_file_of_a_sound_store_is_suspected(store: Path) -> None:
    assert lines(store, "sigbus.require_intact_files(); print(os.path.getsize(chunk))") == [
        str(os.path.getsize(store / "train/embedding/c/0/0/0"))
    ]
