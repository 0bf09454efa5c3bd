"""Chunk files that are read row by row because the process may not map more files.

Linux allows a process 65,530 maps by default. With a map per chunk of at most 16 MiB, that is 1.07 TB of embeddings.
Chunks beyond it are read from their files, with three system calls per row: slower, but without a limit.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.chunkfile import REMEDY, MappedFile, check_size
from cache.errors import CorruptStore
from cache.gather import gather_rows, widen_rows
from cache.int8 import widened

LIMIT = Path("/proc/sys/vm/max_map_count")
MAPS = Path("/proc/self/maps")
RESERVED = 16_384  # maps for libraries, threads and allocators, which crash the process when they get none
UNMAPPED = 1  # stands for an address; the first page of memory is never mapped

Key = TypeVar("Key")

_unread: list[Path] = []


def maps_left() -> int:
    """Return how many more files this process may map; sys.maxsize where the system reports no limit."""
    try:
        limit = int(LIMIT.read_text())
        with MAPS.open() as maps:
            used = sum(1 for _ in maps)
    except (OSError, ValueError):
        return sys.maxsize
    return max(0, limit - used - RESERVED)


def map_files(files: Mapping[Key, Path], size: int) -> tuple[dict[Key, MappedFile], dict[Key, Path]]:
    """Map the existing ones of `files`, of `size` bytes each, as many as this process may; return maps and the rest.

    Raises CorruptStore for a file of another size.
    """
    left = maps_left()
    maps: dict[Key, MappedFile] = {}
    rest: dict[Key, Path] = {}
    for key, file in files.items():
        with suppress(FileNotFoundError):
            if len(maps) < left:
                maps[key] = MappedFile(file, size)
            else:
                check_size(file, file.stat().st_size, size)
                rest[key] = file
    return maps, rest


def gather_or_read(
    addresses: NDArray[np.uint64],
    files: Mapping[int, Path],
    rows: NDArray[np.int64],
    chunk_rows: int,
    out: NDArray[np.uint16],
    scales: NDArray[np.float32] | None = None,
) -> None:
    """As `gather_rows`, or with scales as `widen_rows`, but the rows of UNMAPPED chunks are read from `files`.

    files: a mapping of chunk number to file.
    A row that cannot be read becomes zeros and is reported by `require_rows_read`, since an error in a loader's thread
    would be lost.
    """
    chunks, places = np.divmod(rows, chunk_rows)
    mapped = addresses[chunks] != UNMAPPED
    held = np.empty((int(mapped.sum()), out.shape[1]), np.uint16)
    if scales is None:
        gather_rows(addresses, rows[mapped], chunk_rows, held)
    else:
        widen_rows(addresses, scales, rows[mapped], chunk_rows, held)
    out[: len(rows)][mapped] = held
    codes = np.empty(out.shape[1], np.int8)
    for i in np.flatnonzero(~mapped):
        file, place = files[int(chunks[i])], int(places[i])
        if scales is None:
            _read(file, place, out[i])
        else:
            _read(file, place, codes)
            out[i] = widened(codes[None], scales[rows[i], None])[0].view(np.uint16)


def _read(file: Path, row: int, out: NDArray[np.uint16] | NDArray[np.int8]) -> None:
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


def require_rows_read() -> None:
    """Raise CorruptStore, naming the file, if a row could not be read since the last call."""
    if _unread:
        file = _unread[0]
        _unread.clear()
        raise CorruptStore(
            f"{file} was deleted or cut short, or its disk failed, while it was read; {REMEDY}"
        )
