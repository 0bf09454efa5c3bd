"""The chunks of a store that are still to be computed; splits, and further views of one, are created on the way."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from cache.layout import SplitShape
from cache.metadata import read_split, read_split_attributes
from cache.writer import absent_chunks, create_split
from pipeline.embedding.random_views import WHOLE_SCALE
from pipeline.embedding.tasks import Chunk
from pipeline.images.dataset import Dataset, DatasetSplit


def stored_views(out: Path, crop_scale: tuple[float, float] | None) -> tuple[int, tuple[float, float]]:
    """Return the number of random views that a store has, and the crop scale: as given, or else that of its views."""
    try:
        shape, _, found = read_split_attributes(out, "train")
    except StoreError:
        return 0, crop_scale or WHOLE_SCALE
    return shape.views - 1, crop_scale or found or WHOLE_SCALE


def chunks_to_do(
    dataset: Dataset,
    names: Sequence[str],
    out: Path,
    dim: int,
    views: int,
    crop_scale: tuple[float, float],
    progress: bool,
) -> list[Chunk]:
    """Create these splits in the store if needed, and list all chunks that are missing; train alone has views."""
    chunks: list[Chunk] = []
    for name in names:
        count = 1 + views if name == "train" else 1
        shape = SplitShape(rows=dataset.splits[name].rows, views=count, dim=dim)
        chunks += _missing_chunks(dataset, name, out, shape, crop_scale, progress)
    return chunks


def _missing_chunks(
    dataset: Dataset,
    name: str,
    out: Path,
    shape: SplitShape,
    crop_scale: tuple[float, float],
    progress: bool,
) -> list[Chunk]:
    """Create the split in the store if needed, with at least these views, and list their chunks that are missing."""
    split = dataset.splits[name]
    create_split(
        out,
        name,
        dataset=stored_identity(out, split),
        rows=shape.rows,
        views=shape.views,
        dim=shape.dim,
        labels=split.labels,
        thumbs=split.thumbs,
        crop_scale=crop_scale if shape.views > 1 else None,
    )
    absent = [key for key in absent_chunks(out, name) if key.view < shape.views]
    if progress:
        print(f"{name}: {len(absent)} of {len(shape.chunk_keys)} chunks to do", file=sys.stderr)
    return [
        Chunk(
            dataset=dataset.path.resolve(),
            data=dataset.data.resolve(),
            split=name,
            images=split.identity["images"],
            key=key,
            rows=shape.rows_of(key),
        )
        for key in absent
    ]


def stored_identity(store: Path, split: DatasetSplit) -> dict[str, Any]:
    """Return the identity that a store has of a split: a former one if labels were mended since, else the present."""
    try:
        _, found = read_split(store, split.name)
    except StoreError:
        return split.identity
    return found if found in split.formerly else split.identity
