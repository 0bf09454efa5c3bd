"""One writer at a time, by flock: the system releases the lock when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cache.errors import InUse, StoreError

LOCK = ".lock"
WAIT_S = 0.5
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder's lock file while this process writes there; the folder is created if needed. Readers need no lock.

    Raises:
        InUse: another process holds the lock; the message names it.
        StoreError: the lock file cannot be written.
    """
    lock = folder / LOCK
    with held(lock) as mine:
        if not mine:
            raise InUse(
                f"{folder} is being written by {_holder(lock)}: wait until it has finished, or write to another path"
            )
        yield


@contextlib.contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Try to hold a lock file, created if needed; yields whether this process got it. The file names its holder.

    On a file system without locks every process gets it. Raises StoreError when the file cannot be created.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"cannot write {lock}: {error.strerror}; fix that, or write elsewhere") from error
    with _held(descriptor, lock) as mine:
        try:
            if mine:
                _write(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
            yield mine
        finally:
            if mine:
                _write(descriptor, "")


@contextlib.contextmanager
def waited_for(lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """As `held`, once the lock is free. `waiting` is called once if another process has it. Raises StoreError."""
    told = False
    while True:
        with held(lock) as mine:
            if mine:
                yield
                return
        if not told:
            waiting()
            told = True
        time.sleep(WAIT_S)


@contextlib.contextmanager
def folder_held(folder: Path) -> Iterator[bool]:
    """As `held`, of an existing folder itself: no file is written, so that a read-only folder can be locked too.

    Raises OSError when the folder cannot be opened.
    """
    with _held(os.open(folder, os.O_RDONLY), folder) as mine:
        yield mine


@contextlib.contextmanager
def _held(descriptor: int, path: Path) -> Iterator[bool]:
    """Whether this process got the lock on an open file, which is closed afterwards."""
    try:
        yield _take(descriptor, path)
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise StoreError(f"cannot lock {path}: {error.strerror}; fix that, or write elsewhere") from error
    return True


def _write(descriptor: int, holder: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full: the lock holds without the holder's name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError):
        return lock.read_text(errors="replace") or "another process"
    return "another process"
