"""A split's graph of nearest neighbours, an optional array: int32 (N, M), EMPTY for a row without an embedding."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.columns import Column
from cache.errors import CorruptStore, NotAStore
from cache.metadata import read_array, read_split
from cache.reader import Split
from cache.writer import write_array

NAME = "neighbours"
EMPTY = -1


def write_neighbours(path: Path, split: str, neighbours: NDArray[np.int32]) -> None:
    """Add the graph of a split to a store, atomically, unless it has one. neighbours: (N, M), each row's nearest first.

    Raises StoreError when the system refuses.
    """
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
    write_array(path, split, column, neighbours)


def has_neighbours(path: Path, split: str) -> bool:
    """Whether a split has a graph."""
    return (path / split / NAME).is_dir()


def read_neighbours(split: Split) -> NDArray[np.int32]:
    """Return the graph of a split, int32 (N, M), after checking it.

    Raises NotAStore if there is none; CorruptStore if it is damaged, or of other rows than those with an embedding.
    """
    folder = split.path / split.name / NAME
    if not folder.is_dir():
        raise NotAStore(
            f"the split '{split.name}' of {split.path} has no graph of neighbours; add it with "
            f"`python cli.py cache neighbours {split.path}`"
        )
    graph = read_array(split.path / split.name, NAME)
    if graph.dtype != np.int32 or graph.ndim != 2 or len(graph) != split.shape.rows:
        raise CorruptStore(f"{folder} is not a graph of this split: delete it and make it again")
    usable = np.zeros(split.shape.rows + 1, bool)  # the last entry is EMPTY's
    usable[split.eligible()] = True
    near = graph[usable[:-1]]
    inside = (near >= 0) & (near < split.shape.rows)
    if not usable[np.where(inside, near, EMPTY)].all():
        raise CorruptStore(f"{folder} is damaged or of other images: delete it and make it again")
    return graph
