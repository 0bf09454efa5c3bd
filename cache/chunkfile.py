"""Chunk files of a store: read and verified, or mapped as read-only memory."""

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable
from pathlib import Path

from numpy.typing import NDArray

from cache.columns import Column, decode
from cache.errors import CorruptStore
from cache.sigbus import unwatch, watch

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
POPULATE_READ = 22  # MADV_POPULATE_READ, which Python's mmap module lacks
REMEDY = "run the command that wrote the store again to rewrite this chunk"
_FAILED = ctypes.c_void_p(-1).value


class MappedFile:
    """A file of exactly `size` bytes, mapped into memory at `address` while this object lives.

    Python's own mmap keeps a file descriptor per map, and a large cache has more chunks than the 1024 files that
    a process may usually open.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptStore: the file has another size. For a file that is truncated later, see `require_intact_maps`.
    """

    def __init__(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            check_size(path, os.fstat(descriptor).st_size, size)
            self.address: int = _map(descriptor, size)
        finally:
            os.close(descriptor)
        self.size = size
        number = watch(path, self.address, size, REMEDY)
        # not at exit: a thread may still be reading, and the system unmaps everything anyway
        weakref.finalize(self, _release, number, self.address, size).atexit = False


def populate(maps: Iterable[MappedFile]) -> None:
    """Read mapped files into memory and set up their page tables, so that later accesses do not wait."""
    for each in maps:
        if _libc.madvise(each.address, each.size, POPULATE_READ):  # Linux before 5.14
            _libc.madvise(each.address, each.size, mmap.MADV_WILLNEED)


def available_memory() -> int:
    """Return the bytes available without swapping, page cache included; 0 where the system does not report them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0


def check_size(path: Path, found: int, expected: int) -> None:
    """Raise CorruptStore unless a chunk file has the expected size."""
    if found != expected:
        raise CorruptStore(
            f"{path} was cut short or changed: expected {expected:,} bytes, found {found:,}; {REMEDY}"
        )


def check_file(path: Path, column: Column) -> None:
    """Raise CorruptStore unless a chunk file exists and has the right size."""
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise CorruptStore(f"{path} is missing; {REMEDY}") from error
    check_size(path, found, column.file_bytes)


def read_chunk(path: Path, column: Column) -> NDArray:
    """Return the rows (chunk_rows, *tail) of a chunk file, padding included. Raises CorruptStore."""
    check_file(path, column)
    try:
        return decode(column, path.read_bytes())
    except ValueError as error:
        raise CorruptStore(
            f"{path} has changed since it was written ({error}); "
            "delete it and run the command that wrote the store again"
        ) from error


def _map(descriptor: int, size: int) -> int:
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return address


def _release(number: int, address: int, size: int) -> None:
    unwatch(number)
    _libc.munmap(address, size)
