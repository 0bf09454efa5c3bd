"""The arrays of a split and the encoding of their chunk files: pure functions without file access."""

from dataclasses import dataclass
from math import nan, prod

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from cache.layout import INT8, ChunkKey, SplitShape, Status

CHECKSUM_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Column:
    """One array of a split, chunked along its rows only: (V, N, *tail), or (N, *tail) if `views` is None."""

    name: str
    dtype: np.dtype
    fill: float | int
    views: int | None
    rows: int
    chunk_rows: int
    tail: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return (*self._views(self.views), self.rows, *self.tail)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of every chunk; the last one is padded with the fill value."""
        return (*self._views(1), self.chunk_rows, *self.tail)

    @property
    def file_bytes(self) -> int:
        """Size of every chunk file in bytes, checksum included."""
        return prod(self.chunk_shape) * self.dtype.itemsize + CHECKSUM_BYTES

    def file_name(self, key: ChunkKey) -> str:
        """Return a chunk's file name within the split, as zarr names it: 'embedding/c/0/3/0'."""
        indices = (*self._views(key.view), key.index, *(0 for _ in self.tail))
        return "/".join([self.name, "c", *map(str, indices)])

    def _views(self, value: int | None) -> tuple[int, ...]:
        return () if self.views is None or value is None else (value,)


def chunk_columns(shape: SplitShape) -> tuple[Column, ...]:
    """Return the columns that are written chunk by chunk, in writing order.

    The embedding comes last, so that its file marks the chunk as complete.
    """
    is_int8 = shape.encoding == INT8
    dtype, fill = ("<i1", 0) if is_int8 else ("<f2", nan)
    return (
        _column(shape, "status", "<u1", int(Status.ABSENT), shape.views),
        _column(shape, "norm", "<f4", nan, shape.views),
        _column(shape, "crop", "<f4", nan, shape.views, tail=(5,)),
        *([_column(shape, "scale", "<f4", nan, shape.views)] if is_int8 else []),
        _column(shape, "embedding", dtype, fill, shape.views, tail=(shape.dim,)),
    )


def row_columns(shape: SplitShape) -> tuple[Column, ...]:
    """Return the columns that are written when the split is created."""
    return _column(shape, "label", "<i8", -1), _column(shape, "thumb", "<u8", 0)


def _column(
    shape: SplitShape,
    name: str,
    dtype: str,
    fill: float | int,
    views: int | None = None,
    tail: tuple[int, ...] = (),
) -> Column:
    return Column(
        name=name,
        dtype=np.dtype(dtype),
        fill=fill,
        views=views,
        rows=shape.rows,
        chunk_rows=shape.chunk_rows,
        tail=tail,
    )


def encode(column: Column, rows: NDArray) -> bytes:
    """Encode rows (n, *tail) as a chunk file: little-endian, padded to a whole chunk, followed by the crc32c."""
    assert rows.dtype == column.dtype, (column.name, rows.dtype)
    block = np.full((column.chunk_rows, *column.tail), column.fill, column.dtype)
    block[: len(rows)] = rows
    body = block.tobytes()
    return body + google_crc32c.value(body).to_bytes(CHECKSUM_BYTES, "little")


def decode(column: Column, data: bytes) -> NDArray:
    """Return the rows (chunk_rows, *tail) of a chunk file, padding included.

    Raises:
        ValueError: wrong size or checksum.
    """
    if len(data) != column.file_bytes:
        raise ValueError(f"expected {column.file_bytes} bytes, found {len(data)}")
    body = np.frombuffer(data, np.uint8)[:-CHECKSUM_BYTES]
    checksum = int.from_bytes(data[-CHECKSUM_BYTES:], "little")
    if google_crc32c.value(body) != checksum:
        raise ValueError(f"expected crc32c {checksum:08x}, found {google_crc32c.value(body):08x}")
    return body.view(column.dtype).reshape(column.chunk_rows, *column.tail)
