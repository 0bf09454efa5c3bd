"""The chunk files of a split, apart from the mapped embeddings: their sizes, checksums and contents."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.chunkfile import check_file, read_chunk
from cache.columns import Column, chunk_columns, row_columns
from cache.layout import ChunkKey, SplitShape
from cache.verify_once import verify


class SplitFiles:
    """The files of the chunks `present` of a split in `folder`, and those of its labels and thumbs."""

    def __init__(self, folder: Path, shape: SplitShape, present: Collection[ChunkKey]) -> None:
        self.folder, self.shape, self.present = folder, shape, sorted(present)
        columns = (*chunk_columns(shape), *row_columns(shape))
        self.columns = {column.name: column for column in columns}

    def names(self) -> dict[str, Column]:
        """Return the name in the folder and the column of each file."""
        return {
            column.file_name(key): column for column in self.columns.values() for key in self._keys(column)
        }

    def check_sizes(self) -> None:
        """Raise CorruptStore if a chunk file is missing or has the wrong size."""
        for name, column in self.names().items():
            check_file(self.folder / name, column)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Check the checksums, see `Split.verify`."""
        self.check_sizes()
        return verify(self.folder, self.names(), progress, views=self.shape.views)

    def read(self, name: str, view: int | None = None) -> NDArray:
        """Return a column (V, N, *tail) or (N, *tail), or one view of it (N, *tail); absent chunks hold its fill."""
        column = self.columns[name]
        wanted = range(column.views or 1) if view is None else range(view, view + 1)
        values = np.full((len(wanted), column.rows, *column.tail), column.fill, column.dtype)
        for key in self._keys(column):
            if key.view in wanted:
                held = self.shape.rows_of(key)
                chunk = read_chunk(self.folder / column.file_name(key), column)
                values[key.view - wanted.start, held.start : held.stop] = chunk[: len(held)]
        return values.reshape(column.shape) if view is None else values[0]

    def chunk(self, name: str, key: ChunkKey) -> NDArray:
        """Return the rows (n, *tail) of one chunk of a column."""
        column = self.columns[name]
        return read_chunk(self.folder / column.file_name(key), column)[: len(self.shape.rows_of(key))]

    def _keys(self, column: Column) -> list[ChunkKey]:
        if column.views is None:
            return [ChunkKey(0, index) for index in range(self.shape.chunks)]
        return self.present
