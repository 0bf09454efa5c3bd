"""One writer at a time: a lock that the system takes back from a process that ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cache.errors import InUse, StoreError

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """A folder, made if need be, for this process alone to write to while open; who only reads never asks.

    Raises:
        InUse: another process holds it; the sentence names that one.
        StoreError: no file can be written there.
    """
    lock = folder / LOCK
    with held(lock) as mine:
        if not mine:
            raise InUse(
                f"{folder} is being written by {_holder(lock)}: wait until that has ended, or write to another path"
            )
        yield


@contextlib.contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Whether this process got the lock file, which it holds while open and which names it meanwhile.

    A file system that has no locks refuses nobody. Raises StoreError when the file cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"cannot write {lock}: {error.strerror}; mend that, or write elsewhere") from error
    mine = False
    try:
        mine = _take(descriptor, lock)
        if mine:
            _write(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
        yield mine
    finally:
        if mine:
            _write(descriptor, "")
        os.close(descriptor)


def _take(descriptor: int, lock: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise StoreError(
                f"cannot lock {lock}: {error.strerror}; mend that, or write elsewhere"
            ) from error
    return True


def _write(descriptor: int, holder: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError):
        return lock.read_text(errors="replace") or "another process"
    return "another process"
