"""Format 1 of the store: how rows are divided into chunks and encoded, and the status of a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

FORMAT = 1
LARGEST_CHUNK_BYTES = 16 * 2**20
LARGEST_CHUNK_ROWS = 4096
FLOAT16, INT8 = "float16", "int8"
ENCODINGS = (FLOAT16, INT8)


class Status(IntEnum):
    """The status of a row in a view; only OK rows have an embedding."""

    ABSENT = 0
    OK = 1
    UNREADABLE = 2
    DEGENERATE = 3


def chunk_rows(dim: int) -> int:
    """Return the rows per chunk: the largest power of two, from 1 to 4096, with at most 16 MiB of float16."""
    fitting = max(1, LARGEST_CHUNK_BYTES // (2 * dim))
    return min(LARGEST_CHUNK_ROWS, 1 << (fitting.bit_length() - 1))


@dataclass(frozen=True, order=True)
class ChunkKey:
    """A chunk: the rows from `index * chunk_rows` on in one view."""

    view: int
    index: int


@dataclass(frozen=True, kw_only=True)
class SplitShape:
    """Rows N, views V and dimension D of a split, how its embeddings are encoded, and the chunks that result.

    The rows of a chunk do not depend on the encoding.
    """

    rows: int
    views: int
    dim: int
    encoding: str = FLOAT16

    def __post_init__(self) -> None:
        if min(self.rows, self.views, self.dim) < 1:
            raise ValueError(f"a split needs at least one row, view and dimension, found {self}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"expected one of the encodings {', '.join(ENCODINGS)}, found {self}")

    @property
    def chunk_rows(self) -> int:
        """Rows per chunk; the last chunk of a view may have fewer."""
        return chunk_rows(self.dim)

    @property
    def chunks(self) -> int:
        """Chunks per view."""
        return -(-self.rows // self.chunk_rows)

    @property
    def chunk_keys(self) -> list[ChunkKey]:
        """All chunks, view by view."""
        return [ChunkKey(view, index) for view in range(self.views) for index in range(self.chunks)]

    def rows_of(self, key: ChunkKey) -> range:
        """Return the rows of a chunk. Raises IndexError for a chunk that is not in the split."""
        if not (0 <= key.view < self.views and 0 <= key.index < self.chunks):
            raise IndexError(f"{key} is not among {self.views} views of {self.chunks} chunks")
        start = key.index * self.chunk_rows
        return range(start, min(start + self.chunk_rows, self.rows))


def encoding_of(teacher: Mapping[str, Any]) -> str:
    """Return how the embeddings of a store are encoded, given its teacher's identity: by the last conversion."""
    conversions = teacher.get("conversions") or [FLOAT16]
    return INT8 if str(conversions[-1]).startswith(INT8) else FLOAT16
