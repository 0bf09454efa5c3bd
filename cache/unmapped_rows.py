"""Chunk files that are read row by row, for want of maps: Linux gives a process 65,530 of them unless told otherwise.

A file mapped is a map, and a map a chunk of at most 16 MiB: 1.07 TB of embeddings. What is above that is read from the
files, three system calls a row, which is slower and knows no limit.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.chunkfile import REMEDY
from cache.errors import CorruptStore
from cache.gather import gather_rows

LIMIT = Path("/proc/sys/vm/max_map_count")
MAPS = Path("/proc/self/maps")
RESERVED = 16_384  # for libraries, threads and allocators, which end the process when they get none
UNMAPPED = 1  # in the place of an address; the first page of memory is never mapped

_unread: list[Path] = []


def maps_left() -> int:
    """How many files this process may map besides what it has; without end where the system tells of no limit."""
    try:
        limit = int(LIMIT.read_text())
        with MAPS.open() as maps:
            used = sum(1 for _ in maps)
    except (OSError, ValueError):
        return sys.maxsize
    return max(0, limit - used - RESERVED)


def gather_or_read(
    addresses: NDArray[np.uint64],
    files: Mapping[int, Path],
    rows: NDArray[np.int64],
    chunk_rows: int,
    out: NDArray[np.uint16],
) -> None:
    """As `gather_rows`, of chunks of which some are UNMAPPED: those rows are read from `files`, by chunk.

    A row that cannot be read is zeros, and `require_read` tells of it: a loader's thread has nobody to raise to.
    """
    chunks, places = np.divmod(rows, chunk_rows)
    mapped = addresses[chunks] != UNMAPPED
    held = np.empty((int(mapped.sum()), out.shape[1]), np.uint16)
    gather_rows(addresses, rows[mapped], chunk_rows, held)
    out[: len(rows)][mapped] = held
    for i in np.flatnonzero(~mapped):
        _read(files[int(chunks[i])], int(places[i]), out[i])


def _read(file: Path, row: int, out: NDArray[np.uint16]) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            read = os.preadv(descriptor, [out.data.cast("B")], row * out.nbytes)
        finally:
            os.close(descriptor)
    except OSError:
        read = 0
    if read != out.nbytes:
        out[:] = 0
        _unread.append(file)


def require_read() -> None:
    """Raise CorruptStore, naming the file, if a row could not be read since this was last asked."""
    if _unread:
        file = _unread[0]
        _unread.clear()
        raise CorruptStore(
            f"{file} was deleted or cut short, or its disk failed, while it was read; {REMEDY}"
        )
