"""What is changed in FFCV, and why. Every module that imports FFCV imports this one first.

- `numba.typed.Dict` is a plain dict while FFCV is imported: FFCV would compile a dictionary of two names, 3 s at each
  import.
- `loader.Reader` -> `MappedReader`: FFCV copies the tables of the .beton into memory.
- `loader.OSCacheManager` -> `MappedImages`: FFCV keeps dictionaries of sets of every row, 700 bytes each, and takes 8 s
  to fill them for ImageNet.
- `loader.EpochIterator` -> `ErrorReportingIterator`: FFCV loses an error in its thread, and then waits for the next
  batch without end.
- `memory_allocator.open` -> `open_for_whole_writes`: of a write that a nearly full disk takes in part, FFCV loses the
  rest.

They reach into FFCV's internals, so another version than the one they were written for is refused. When FFCV changes:
compare `ffcv/loader/loader.py`, `reader.py` and `memory_allocator.py` with this file, raise VERSION, and run the tests
of pipeline/loading and pipeline/images.
"""

import importlib.metadata
import io
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba.typed
import numpy as np
from numpy.typing import NDArray

from cache.sigbus import unwatch, watch
from pipeline.errors import PipelineError

VERSION = "1.0.2"


def require_version(found: str) -> None:
    """Raise PipelineError unless FFCV is of the version that the patches were written for."""
    if found != VERSION:
        raise PipelineError(
            f"FFCV {VERSION} is needed, found {found}: install ffcv=={VERSION}, as requirements.txt has it"
        )


require_version(importlib.metadata.version("ffcv"))

compiled_dict, numba.typed.Dict = numba.typed.Dict, dict
try:
    pass  # fills the dictionary
finally:
    numba.typed.Dict = compiled_dict

# isort: split

from ffcv import memory_allocator
from ffcv.loader import loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.reader import Reader
from ffcv.types import ALLOC_TABLE_TYPE, HeaderType


def watched(beton: Path) -> np.memmap:
    """The bytes (size,) uint8 of a .beton, mapped. A file that is cut short later ends the epoch with an error."""
    content = np.memmap(beton, np.uint8, "r")
    number = watch(
        beton, content.ctypes.data, content.size, "delete it and run `pack` again, which makes it anew"
    )
    weakref.finalize(content, unwatch, number).atexit = False
    return content


def table(content: np.memmap, start: int, dtype: np.dtype[Any], rows: int) -> NDArray[np.void]:
    """The records (rows,) that begin at byte `start`, as a view of the file."""
    return np.asarray(content[start : start + rows * dtype.itemsize]).view(dtype)


def sizes(stored: NDArray[np.void]) -> NDArray[np.uint32]:
    """Bytes of each row's image (N,), given FFCV's allocation table (N,)."""
    of_rows = np.empty(len(stored), np.uint32)
    of_rows[stored["sample_id"]] = stored["size"]
    return of_rows


class MappedReader(Reader):
    """FFCV's reader, with the tables left in the file: four bytes a row are kept in memory."""

    def read_metadata(self) -> None:
        self.content, self.rows = watched(Path(self._fname)), int(self.num_samples)
        start = HeaderType.itemsize + self.field_descriptors.nbytes
        self.metadata = table(self.content, start, self.metadata_type, self.rows)

    def read_allocation_table(self) -> None:
        start = int(self.header["alloc_table_ptr"])
        self.sizes = sizes(table(self.content, start, ALLOC_TABLE_TYPE, self.rows))


class MappedImages:
    """What FFCV's Loader asks of a memory manager, and of the context of an epoch: `state` goes to the decoders.

    reader: a MappedReader, with `content` (size,) uint8 and `sizes` (N,) uint32.
    """

    def __init__(self, reader: Any) -> None:
        self.state = (reader.content, reader.sizes)

    def schedule_epoch(self, batches: Sequence[Any]) -> "MappedImages":
        """The system's page cache needs no plan."""
        return self

    def start_batch(self, batch: int) -> None: ...

    def compile_reader(self) -> None:
        """For FFCV's own decoders, none of which is used."""

    def __enter__(self) -> "MappedImages":
        return self

    def __exit__(self, *error: object) -> None: ...


class ErrorReportingIterator(EpochIterator):
    """FFCV's iterator over an epoch, which keeps the error that ended its thread and then ends the epoch."""

    error: Exception | None = None

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.error = error
            self.output_queue.put(None)  # the end of the epoch


class WholeWrites(io.FileIO):
    """A file in which each write puts down everything, or fails."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        return len(data)


def open_for_whole_writes(path: str, mode: str, buffering: int) -> WholeWrites:
    """`open` as FFCV calls it for the pages that it writes."""
    return WholeWrites(path, mode)


loader.Reader, loader.OSCacheManager = MappedReader, MappedImages
loader.EpochIterator = ErrorReportingIterator
memory_allocator.open = open_for_whole_writes
