"""The ledger of a split: which checksum belongs to which chunk, in two small arrays beside the chunks.

A chunk file that was swapped with another, or copied from another store, still matches its own checksum; the ledger
detects it. Stores created before ledgers were introduced have none.
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
    """Return the column (V, chunks, 5) uint32: crc32c of a chunk's status, norm, crop and embedding, and its `mark`."""
    return _column(CHUNK_LEDGER, shape, shape.views, len(chunk_columns(shape)))


def row_ledger(shape: SplitShape) -> Column:
    """Return the column (chunks, 3) uint32: crc32c of each chunk of labels and of thumbs, and its `mark`."""
    return _column(ROW_LEDGER, shape, None, len(row_columns(shape)))


def has_ledger(folder: Path) -> bool:
    """Whether the split in a folder was created with a ledger."""
    return (folder / CHUNK_LEDGER).is_dir()


def mark(store_id: str, split: str, dataset: Mapping[str, Any], key: ChunkKey) -> int:
    """Return the crc32c of where a chunk belongs: the store's id, split, dataset identity, view and index."""
    place = {"id": store_id, "split": split, "dataset": dict(dataset), "view": key.view, "index": key.index}
    return int(google_crc32c.value(canonical_json(place).encode()))


def checksum_of(data: bytes) -> int:
    """Return the checksum at the end of a chunk file's bytes."""
    return int.from_bytes(data[-CHECKSUM_BYTES:], "little")


def ledger_entry(files: Iterable[bytes], mark: int) -> NDArray[np.uint32]:
    """Return a chunk's row of the ledger, (1, files + 1) uint32, given the bytes of its files in order."""
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
