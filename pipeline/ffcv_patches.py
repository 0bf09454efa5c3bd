"""The changes that we make to FFCV, and why. Every module that imports FFCV imports this one first.

- `numba.typed.Dict` is a plain dict while FFCV is imported: FFCV would spend 3 s at each import on compiling a
  dictionary of two entries.
- `distutils.log` is the module `warnings` while FFCV is imported: FFCV imports `warn` from it and never uses it, and
  Python has no distutils since 3.12.
- `loader.Reader` -> `MappedReader`: FFCV copies the tables of the .beton into memory.
- `loader.OSCacheManager` -> `MappedImages`: FFCV keeps dictionaries of sets of all rows, 700 bytes per row, and takes
  8 s to fill them for ImageNet.
- `loader.EpochIterator` -> `ErrorReportingIterator`: FFCV loses an error in its thread and then waits forever for the
  next batch.
- `graph.allocate_query` -> `unpinned`: FFCV pins its buffers wherever there is a GPU, even for --device cpu, and its
  scratch alone takes 0.8 GB for batches of 256 images of 512 px. Batches go to a GPU by pipeline/loading/staging.py.
- `epoch_iterator.IS_CUDA` is false: FFCV has nothing to copy to a GPU, so its streams would only occupy the first one.
- `memory_allocator.open` -> `open_for_whole_writes`: when a nearly full disk accepts only a part of a write, FFCV loses
  the rest.
- `RGBImageField.encode` -> `encode_or_keep`: FFCV takes pixels only and would encode a JPEG file a second time.

These patches depend on FFCV's internals, so any other version than VERSION is refused. To upgrade FFCV, compare its
`loader/loader.py`, `loader/epoch_iterator.py`, `pipeline/allocation_query.py`, `fields/rgb_image.py`, `reader.py` and
`memory_allocator.py` with this file, raise VERSION, and run the tests of this file, pipeline/loading and
pipeline/images.
"""

import importlib.metadata
import io
import sys
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba.typed
import numpy as np
import torch
from numpy.typing import NDArray

from cache.sigbus import unwatch, watch
from pipeline.errors import PipelineError

VERSION = "1.0.2"


def require_version(found: str) -> None:
    """Raise PipelineError unless this is the version of FFCV that the patches were written for."""
    if found != VERSION:
        raise PipelineError(
            f"expected FFCV {VERSION}, found {found}: install ffcv=={VERSION}, as requirements.txt says"
        )


require_version(importlib.metadata.version("ffcv"))

compiled_dict, numba.typed.Dict = numba.typed.Dict, dict
sys.modules.setdefault("distutils.log", warnings)
try:
    import ffcv.fields.rgb_image  # noqa: F401  fills the dictionary
finally:
    numba.typed.Dict = compiled_dict
    if sys.modules["distutils.log"] is warnings:
        del sys.modules["distutils.log"]

# isort: split

from ffcv import memory_allocator
from ffcv.fields.rgb_image import IMAGE_MODES, RGBImageField
from ffcv.loader import epoch_iterator, loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline import graph
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.reader import Reader
from ffcv.types import ALLOC_TABLE_TYPE, HeaderType


def watched(beton: Path) -> np.memmap:
    """Map a .beton as bytes (size,) uint8. If the file is truncated later, the epoch ends with an error."""
    content = np.memmap(beton, np.uint8, "r")
    number = watch(beton, content.ctypes.data, content.size, "delete it and run `pack` again")
    weakref.finalize(content, unwatch, number).atexit = False
    return content


def table(content: np.memmap, start: int, dtype: np.dtype[Any], rows: int) -> NDArray[np.void]:
    """Return the records (rows,) that start at byte `start`, as a view of the file."""
    return np.asarray(content[start : start + rows * dtype.itemsize]).view(dtype)


def sizes(stored: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the size in bytes of each row's image (N,), given FFCV's allocation table (N,)."""
    of_rows = np.empty(len(stored), np.uint32)
    of_rows[stored["sample_id"]] = stored["size"]
    return of_rows


class MappedReader(Reader):
    """FFCV's reader, but the tables stay in the file: only four bytes per row are kept in memory."""

    def read_metadata(self) -> None:
        self.content, self.rows = watched(Path(self._fname)), int(self.num_samples)
        start = HeaderType.itemsize + self.field_descriptors.nbytes
        self.metadata = table(self.content, start, self.metadata_type, self.rows)

    def read_allocation_table(self) -> None:
        start = int(self.header["alloc_table_ptr"])
        self.sizes = sizes(table(self.content, start, ALLOC_TABLE_TYPE, self.rows))


class MappedImages:
    """FFCV's memory manager and epoch context in one: `state`, the mapped file, is passed to the decoders.

    reader: a MappedReader, with `content` (size,) uint8 and `sizes` (N,) uint32.
    """

    def __init__(self, reader: Any) -> None:
        self.state = (reader.content, reader.sizes)

    def schedule_epoch(self, batches: Sequence[Any]) -> "MappedImages":
        """Nothing to plan: the system's page cache does the reading."""
        return self

    def start_batch(self, batch: int) -> None: ...

    def compile_reader(self) -> None:
        """Only FFCV's own decoders need this, and none of them is used."""

    def __enter__(self) -> "MappedImages":
        return self

    def __exit__(self, *error: object) -> None: ...


class ErrorReportingIterator(EpochIterator):
    """FFCV's iterator over an epoch, but an error in its thread is kept in `error` and ends the epoch."""

    error: Exception | None = None

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.error = error
            self.output_queue.put(None)  # the end of the epoch


def unpinned(query: AllocationQuery, batch: int, slots: int) -> NDArray[Any]:
    """Return FFCV's buffer (slots, batch, ...) for an operation that asks for an array, in ordinary memory."""
    dtype = torch.from_numpy(np.empty(0, query.dtype)).dtype
    # from torch, as FFCV does: its memory is aligned
    return torch.empty(slots, batch, *query.shape, dtype=dtype).numpy()


class WholeWrites(io.FileIO):
    """A file whose every write is complete or raises."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        return len(data)


def open_for_whole_writes(path: str, mode: str, buffering: int) -> WholeWrites:
    """Open a file as FFCV opens the .beton to append pages to it."""
    return WholeWrites(path, mode)


encode_pixels = RGBImageField.encode


def encode_or_keep(field: RGBImageField, destination: Any, image: Any, malloc: Any) -> None:
    """Write an image as FFCV does, or the bytes of a JPEG file: an object with `jpeg`, `width` and `height`."""
    jpeg = getattr(image, "jpeg", None)
    if jpeg is None:
        return encode_pixels(field, destination, image, malloc)
    destination["mode"], destination["height"], destination["width"] = (
        IMAGE_MODES["jpg"],
        image.height,
        image.width,
    )
    destination["data_ptr"], storage = malloc(len(jpeg))
    storage[:] = np.frombuffer(jpeg, np.uint8)


RGBImageField.encode = encode_or_keep
loader.Reader, loader.OSCacheManager = MappedReader, MappedImages
loader.EpochIterator = ErrorReportingIterator
graph.allocate_query, epoch_iterator.IS_CUDA = unpinned, False
memory_allocator.open = open_for_whole_writes
