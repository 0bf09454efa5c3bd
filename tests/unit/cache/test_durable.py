"""Atomic files: whole or absent, synced before they are renamed."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.durable import whole_file, write_file
from cache.errors import StoreError


def write_as_stream(path: Path, data: bytes) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        for byte in data:
            file.write(bytes([byte]))


both_forms = pytest.mark.parametrize("write", [write_file, write_as_stream])


@both_forms
def test_a_file_is_synced_before_its_rename_and_its_folder_after(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    replace = os.replace

    def renamed(source: Path, target: Path) -> None:
        events.append(f"rename {target.name}")
        replace(source, target)

    def synced(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        events.append(f"sync {name.split('~')[0]}")

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    write(tmp_path / "folder/file", b"data")
    # the new folder's own entry first
    assert events == [f"sync {tmp_path.name}", "sync .file", "rename file", "sync folder"]
    assert (tmp_path / "folder/file").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "run the same command again: it {}"),
        (errno.EIO, "run the same command again: it {}"),
        (errno.ENOTDIR, "choose another path"),
        (errno.EISDIR, "choose another path"),
        (errno.ENAMETOOLONG, "choose another path"),
        (errno.EROFS, "make it writable or choose another path"),
        (errno.EACCES, "make it writable or choose another path"),
    ],
)
def test_the_advice_is_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    for resumes, ends in ((True, "resumes from there"), (False, "starts from the beginning")):
        with pytest.raises(StoreError) as caught:
            write_file(tmp_path / "x", b"", resumes=resumes)
        assert str(caught.value).endswith(advice.format(ends))


@both_forms
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"cannot write .*x: No space left on device; .* run the same command"
    ):
        write(tmp_path / "x", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_an_interrupted_stream_leaves_nothing(tmp_path: Path) -> None:
    full = pytest.raises(StoreError, match=r"cannot write .*x: No space left on device")
    with full, whole_file(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SystemExit), whole_file(tmp_path / "x") as temporary:
        sys.exit(temporary.write_bytes(b"half"))
    assert list(tmp_path.iterdir()) == []
