"""One writer at a time, by a lock that ends with its process; readers need neither the lock nor write permission."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cache.errors import InUse, StoreError
from cache.layout import SplitShape
from cache.lock import LOCK, folder_held, held, sole_writer
from cache.reader import open_store
from tests.support.tiny_store import contents, written

SMALL = SplitShape(rows=50, views=1, dim=8)


def test_a_lock_is_held_once_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "x.lock") as first, held(tmp_path / "x.lock") as second:
        assert first
        assert not second
    with held(tmp_path / "x.lock") as again:
        assert again


def test_a_folder_is_held_once_at_a_time_and_gets_no_file(tmp_path: Path) -> None:
    with folder_held(tmp_path) as first, folder_held(tmp_path) as second:
        assert first
        assert not second
    with folder_held(tmp_path) as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_until_the_first_is_dead_however_it_died(tmp_path: Path) -> None:
    """The first one is killed, while a process that it started lives on."""
    code = (
        "import pathlib, subprocess, sys\n"
        "from cache.lock import sole_writer\n"
        "with sole_writer(pathlib.Path(sys.argv[1])):\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
    )
    program = [sys.executable, "-c", code, str(tmp_path / "made")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        child = int(first.stdout.readline())
        try:
            with (
                pytest.raises(InUse, match=rf"made is being written by process {first.pid} on .*: wait"),
                sole_writer(tmp_path / "made"),
            ):
                raise AssertionError("there are two writers")
            first.kill()
            first.wait()
            assert (tmp_path / "made" / LOCK).read_text(), "a killed process leaves its name"
            with sole_writer(tmp_path / "made"):
                assert f"process {os.getpid()} on" in (tmp_path / "made" / LOCK).read_text()
        finally:
            os.kill(child, signal.SIGKILL)
    assert (tmp_path / "made" / LOCK).read_bytes() == b""


def test_a_store_is_read_while_it_is_written_and_reading_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "cache.zarr"
    written(path, SMALL)
    with sole_writer(path):
        before = contents(path)
        split = open_store(path).split("train")
        split.verify()
        assert split.gather([0, 1]).shape == (2, 8)
        assert contents(path) == before


def test_another_users_store_is_read_where_one_may_not_write() -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from cache.reader import open_store\n"
        "def read():\n"
        "    split = open_store(Path(sys.argv[1])).split('train')\n"
        "    split.verify()\n"
        "    return split.gather([0, 1]).tobytes().hex()\n"
        "read()  # imports and compiles\n"
        "if os.geteuid() == 0:\n"
        "    os.setuid(65534)\n"
        "try:\n"
        "    (Path(sys.argv[1]) / 'mine').touch()\n"
        "except PermissionError:\n"
        "    print(read())\n"
    )
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        path = Path(home) / "cache.zarr"
        expected = written(path, SMALL).gather([0, 1]).tobytes().hex()
        folders = [path, *(each for each in path.rglob("*") if each.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        found = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        for folder in folders:
            folder.chmod(0o755)
    assert found.stdout.strip() == expected


def test_a_file_system_without_locks_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with held(tmp_path / "x.lock") as first, held(tmp_path / "x.lock") as second:
        assert first
        assert second


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/\.lock: "), sole_writer(tmp_path / "file"):
        pass
