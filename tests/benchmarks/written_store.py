"""Stores of any size: every chunk holds the rows of one random chunk, rolled a little further."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.layout import SplitShape
from cache.reader import Split, open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from tests.support.tiny_store import TEACHER

IMAGES = {"split": "train", "classes": [], "images": "1" * 64}


def written_store(
    path: Path,
    *,
    rows: int,
    dim: int = 2048,
    dataset: Mapping[str, Any] = IMAGES,
    labels: NDArray[np.int64] | None = None,
    thumbs: NDArray[np.uint64] | None = None,
) -> Split:
    """Write and open a complete split 'train' of float16 unit rows (rows, dim), no two chunks alike."""
    shape = SplitShape(rows=rows, views=1, dim=dim)
    create_store(path, TEACHER)
    create_split(
        path,
        "train",
        dataset=dataset,
        rows=rows,
        views=1,
        dim=dim,
        labels=np.zeros(rows, np.int64) if labels is None else labels,
        thumbs=np.zeros(rows, np.uint64) if thumbs is None else thumbs,
    )
    draws = np.random.default_rng(0)
    drawn = normalize(draws.standard_normal((shape.chunk_rows, dim), dtype=np.float32))
    for key in shape.chunk_keys:
        write_chunk(path, "train", key, rolled(drawn, key.index, len(shape.rows_of(key))))
    return open_store(path).split("train")


def rolled(drawn: tuple[NDArray, NDArray, NDArray], by: int, rows: int) -> ChunkRows:
    """Return the first rows of a chunk, with their values rolled by some places, which keeps their norm."""
    embedding, norm, status = drawn
    crop = np.tile(np.float32([0, 0, 1, 1, 0]), (rows, 1))
    return ChunkRows(
        embedding=np.roll(embedding[:rows], by, axis=1), norm=norm[:rows], crop=crop, status=status[:rows]
    )
