"""Files that are there whole or not at all, whatever is killed and whenever."""

import errno
import glob
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cache.errors import StoreError


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one atomic step that survives a power cut, its folders included.

    Raises:
        StoreError: the system refused, as a full disk does; nothing half-written is left.
    """
    with _in_words(path):
        _make_folder(path.parent)
        temporary = path.with_name(_temporary_name(path.name))
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def place_folder(path: Path, files: Mapping[str, bytes], *, staged_beside: Path) -> None:
    """Put a folder of files in place in one step; does nothing if `path` holds something already.

    The files are gathered beside `staged_beside` first, on the same file system.

    Raises:
        StoreError: the system refused, as a full disk does; nothing half-written is left.
    """
    staging = staged_beside.with_name(_temporary_name(staged_beside.name))
    try:
        for name, data in files.items():
            write_file(staging / name, data)
        with _in_words(path):
            _rename_unless_taken(staging, path)
            sync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers_beside(path: Path) -> None:
    """Delete the staging folders that killed processes left beside `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}~*.tmp"):
        if _owner_is_dead(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_leftovers_within(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder and below it."""
    for inner, _, names in os.walk(folder):
        for name in names:
            if _owner_is_dead(name):
                Path(inner, name).unlink(missing_ok=True)


def _temporary_name(name: str) -> str:
    # chunk names are numbers: zarr never takes this for one
    return f".{name}~{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}.tmp"


def _owner_is_dead(name: str) -> bool:
    temporary = re.fullmatch(r"\..+~(?P<host>[^~]+)~(?P<pid>\d+)~[0-9a-f]+\.tmp", name)
    # of a process on another machine nothing can be known from here
    if temporary is None or temporary["host"] != socket.gethostname():
        return False
    return not _is_alive(int(temporary["pid"]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _rename_unless_taken(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Let a file's or a folder's content reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; what was written before is whole and nothing "
            "half-written is left, so mend the cause and run the same command again: it goes on from there"
        ) from error
