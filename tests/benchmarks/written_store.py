"""Stores of any size, written to the last byte: the rows of one drawn chunk, turned a little further for each chunk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.layout import SplitShape
from cache.reader import Split, open_store
from cache.writer import ChunkRows, create_split, create_store, normalise, write_chunk
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
    """A complete split 'train' of unit rows (rows, dim) float16, no two chunks alike, open."""
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
    drawn = normalise(draws.standard_normal((shape.chunk_rows, dim), dtype=np.float32))
    for key in shape.chunk_keys:
        write_chunk(path, "train", key, turned(drawn, key.index, len(shape.rows_of(key))))
    return open_store(path).split("train")


def turned(drawn: tuple[NDArray, NDArray, NDArray], by: int, rows: int) -> ChunkRows:
    """The first rows of a chunk with their numbers moved on by so many places, which keeps their length."""
    embedding, norm, status = drawn
    crop = np.tile(np.float32([0, 0, 1, 1, 0]), (rows, 1))
    return ChunkRows(
        embedding=np.roll(embedding[:rows], by, axis=1), norm=norm[:rows], crop=crop, status=status[:rows]
    )
