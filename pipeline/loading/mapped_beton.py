"""A .beton as mapped memory: its tables stay in the file, and what lies where is known by four bytes a row.

FFCV's own reader copies the tables, and its memory manager keeps dictionaries of sets of every row: 700 bytes each, and
eight seconds for a dataset of the size of ImageNet.
"""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.sigbus import unwatch, watch


def watched(beton: Path) -> np.memmap:
    """A .beton's bytes (size,) uint8, mapped; one that is cut short ends the epoch in words."""
    content = np.memmap(beton, np.uint8, "r")
    number = watch(
        beton, content.ctypes.data, content.size, "delete it and run `pack` again, which makes it anew"
    )
    weakref.finalize(content, unwatch, number).atexit = False
    return content


def table(content: np.memmap, start: int, dtype: np.dtype[Any], rows: int) -> NDArray[np.void]:
    """The records (rows,) that begin at byte `start`, where they lie."""
    return np.asarray(content[start : start + rows * dtype.itemsize]).view(dtype)


def sizes(stored: NDArray[np.void]) -> NDArray[np.uint32]:
    """Bytes of each row's picture (N,), given the allocations of all of them (N,) STORED."""
    of_rows = np.empty(len(stored), np.uint32)
    of_rows[stored["sample_id"]] = stored["size"]
    return of_rows


class MappedPictures:
    """What FFCV's Loader asks of a memory manager, and of the context of an epoch: `state` is what decoders get.

    reader: has the .beton's `content` (size,) uint8 and the `sizes` (N,) uint32 of its pictures.
    """

    def __init__(self, reader: Any) -> None:
        self.state = (reader.content, reader.sizes)

    def schedule_epoch(self, batches: Sequence[Any]) -> "MappedPictures":
        """The system's page cache needs no plan."""
        return self

    def start_batch(self, batch: int) -> None: ...

    def compile_reader(self) -> None:
        """For FFCV's own decoders, of which none is used."""

    def __enter__(self) -> "MappedPictures":
        return self

    def __exit__(self, *error: object) -> None: ...
