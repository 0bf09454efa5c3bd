"""The projection of a store whose embeddings were reduced: float32 (D before, D), an optional array of a split."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.columns import Column
from cache.metadata import read_array
from cache.writer import write_array

NAME = "projection"


def write_projection(path: Path, split: str, projection: NDArray[np.float32]) -> None:
    """Add the projection to a split of a store, atomically, unless it has one."""
    rows, dim = projection.shape
    column = Column(
        name=NAME, dtype=np.dtype("<f4"), fill=0, views=None, rows=rows, chunk_rows=rows, tail=(dim,)
    )
    write_array(path, split, column, projection)


def read_projection(path: Path, split: str) -> NDArray[np.float32] | None:
    """Return the projection of a split, None if it has none. Raises CorruptStore if it is damaged."""
    folder = path / split
    return np.asarray(read_array(folder, NAME), np.float32) if (folder / NAME).is_dir() else None
