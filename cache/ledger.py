"""The ledger of a split: which checksums belong where, kept in two small arrays beside the chunks.

A chunk file's own checksum agrees with its bytes wherever the file lies. The ledger tells of a file that was swapped
with another or comes from another store. A store that was begun before there were ledgers has none.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from cache.columns import CHECKSUM_BYTES, Column, chunk_columns, row_columns
from cache.identity import canonical_json
from cache.layout import ChunkKey, SplitShape

CHUNK_LEDGER = "checksum"
ROW_LEDGER = "row_checksum"


def chunk_ledger(shape: SplitShape) -> Column:
    """(V, chunks, 5) uint32: crc32c of each chunk's status, norm, crop and embedding, and its `mark`."""
    return _column(CHUNK_LEDGER, shape, shape.views, len(chunk_columns(shape)))


def row_ledger(shape: SplitShape) -> Column:
    """(chunks, 3) uint32: crc32c of each chunk of labels and of thumbs, and its `mark`."""
    return _column(ROW_LEDGER, shape, None, len(row_columns(shape)))


def has_ledger(folder: Path) -> bool:
    """Whether the split in a folder was created with a ledger."""
    return (folder / CHUNK_LEDGER).is_dir()


def mark(store_id: str, split: str, dataset: Mapping[str, Any], key: ChunkKey) -> int:
    """crc32c of what a chunk is of: the store's id, the split, its dataset's identity, the view and the place."""
    of = {"id": store_id, "split": split, "dataset": dict(dataset), "view": key.view, "index": key.index}
    return int(google_crc32c.value(canonical_json(of).encode()))


def checksum_of(data: bytes) -> int:
    """The checksum at the end of a chunk file's bytes."""
    return int.from_bytes(data[-CHECKSUM_BYTES:], "little")


def entry(files: Iterable[bytes], mark: int) -> NDArray[np.uint32]:
    """What the ledger says of one chunk, (1, files + 1) uint32, given the bytes of its files in order."""
    return np.array([[*map(checksum_of, files), mark]], np.uint32)


def _column(name: str, shape: SplitShape, views: int | None, files: int) -> Column:
    return Column(
        name=name,
        dtype=np.dtype("<u4"),
        fill=0,
        views=views,
        rows=shape.chunks,
        chunk_rows=1,
        tail=(files + 1,),
    )
