"""Atomic writes: a file or folder is there whole or not at all, even after a crash or a power cut."""

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

WRONG_PATH = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_file(path: Path, data: bytes, *, resumes: bool = True) -> None:
    """Write a file atomically, so that it survives a power cut; missing parent folders are created.

    resumes: whether the command that writes goes on when it is run again; the error's message says so.

    Raises:
        StoreError: the system refused, for example because the disk is full; no partial file is left.
    """
    with whole_file(path, resumes=resumes) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_file(path: Path, *, resumes: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` if the block succeeds: `write_file` as a stream.

    Raises:
        StoreError: as `write_file` does, also for an OSError raised in the block.
    """
    temporary = path.with_name(temporary_name(path.name))
    with _refusal_as_store_error(path, resumes):
        _make_folder(path.parent)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def place_folder(path: Path, files: Mapping[str, bytes], *, staged_beside: Path) -> None:
    """Create the folder `path` with these files atomically; do nothing if `path` already holds something.

    files: relative name to content. The folder is first built beside `staged_beside`, on the same file system.

    Raises:
        StoreError: the system refused, for example because the disk is full; no partial folder is left.
    """
    staging = staged_beside.with_name(temporary_name(staged_beside.name))
    try:
        for name, data in files.items():
            write_file(staging / name, data)
        with _refusal_as_store_error(path):
            _rename_unless_taken(staging, path)
            sync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers_beside(path: Path) -> None:
    """Delete the staging folders that killed processes of this machine left beside `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}~*.tmp"):
        if _owner_is_dead(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_leftovers_within(folder: Path) -> None:
    """Delete the temporary files that killed processes of this machine left anywhere below `folder`."""
    for inner, _, names in os.walk(folder):
        for name in names:
            if _owner_is_dead(name):
                Path(inner, name).unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """Return a hidden name beside `name`, from which a later process can tell whether its owner is still alive."""
    # zarr names chunk files by number, so it never reads one of these
    return f".{name}~{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}.tmp"


def _owner_is_dead(name: str) -> bool:
    temporary = re.fullmatch(r"\..+~(?P<host>[^~]+)~(?P<pid>\d+)~[0-9a-f]+\.tmp", name)
    # whether a process of another machine is alive cannot be checked from here
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
    """Flush a file or a folder to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _refusal_as_store_error(path: Path, resumes: bool = True) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; earlier files are intact and no partial file is left, "
            f"so {_advice(error, resumes)}"
        ) from error


def _advice(error: OSError, resumes: bool) -> str:
    """Return what to do about a refused write; the same command would fail again where the path itself is wrong."""
    if error.errno in WRONG_PATH:
        return "choose another path"
    if error.errno in NO_PERMISSION:
        return "make it writable or choose another path"
    again = "it resumes from there" if resumes else "it starts from the beginning"
    return f"fix the cause and run the same command again: {again}"
