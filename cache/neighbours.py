"""A split's graph of nearest neighbours, an optional array: int32 (N, M), EMPTY for a row without an embedding."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.columns import Column, encode
from cache.durable import place_folder
from cache.errors import NotAStore
from cache.layout import ChunkKey
from cache.metadata import array_metadata, read_array, read_split

NAME = "neighbours"
EMPTY = -1


def write_neighbours(path: Path, split: str, neighbours: NDArray[np.int32]) -> None:
    """Add the graph of a split to a store, atomically. neighbours: (N, M) rows, each row's nearest first.

    Raises StoreError when the system refuses, or if there is a graph already.
    """
    path = path.resolve()
    shape, _ = read_split(path, split)
    assert neighbours.shape[0] == shape.rows, (neighbours.shape, shape)
    column = Column(
        name=NAME,
        dtype=np.dtype("<i4"),
        fill=EMPTY,
        views=None,
        rows=shape.rows,
        chunk_rows=shape.chunk_rows,
        tail=(neighbours.shape[1],),
    )
    files = array_metadata(column)
    for index in range(shape.chunks):
        key = ChunkKey(0, index)
        held = shape.rows_of(key)
        name = column.file_name(key).removeprefix(f"{NAME}/")
        files[name] = encode(column, neighbours[held.start : held.stop])
    place_folder(path / split / NAME, files, staged_beside=path)


def has_neighbours(path: Path, split: str) -> bool:
    """Whether a split has a graph."""
    return (path / split / NAME).is_dir()


def read_neighbours(path: Path, split: str) -> NDArray[np.int32]:
    """Return the graph of a split, int32 (N, M), after checking its checksums.

    Raises NotAStore if it has none, CorruptStore if it is damaged.
    """
    if not has_neighbours(path, split):
        raise NotAStore(
            f"the split '{split}' of {path} has no graph of neighbours; add it with "
            f"`python cli.py cache neighbours {path}`"
        )
    neighbours: NDArray[np.int32] = read_array(path / split, NAME)
    return neighbours
