"""Small stores with known values: each is a pure function of the split's shape and the chunk."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cache.layout import ChunkKey, SplitShape, Status
from cache.reader import Split, open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk

TEACHER = {"architecture": "planted", "weights": "0" * 64, "preprocessing": {"resize": 256, "mean": [0.5]}}
SHAPE = SplitShape(rows=2 * 4096 + 100, views=2, dim=8)


def dataset_of(shape: SplitShape) -> dict:
    return {"split": "train", "rows": shape.rows, "classes": ["cat", "dog"], "images": "1" * 64}


def labels_of(shape: SplitShape) -> np.ndarray:
    return np.arange(shape.rows, dtype=np.int64) % 3 - 1


def thumbs_of(shape: SplitShape) -> np.ndarray:
    return np.arange(shape.rows, dtype=np.uint64) * np.uint64(2**40 + 1)


def chunk_of(shape: SplitShape, key: ChunkKey) -> ChunkRows:
    """Return Gaussian features; row 3 of the chunk is unreadable and row 5 all zero."""
    rng = np.random.default_rng((key.view, key.index))
    rows = len(shape.rows_of(key))
    features = rng.standard_normal((rows, shape.dim)).astype(np.float32)
    features[5] = 0
    embedding, norm, status = normalize(features)
    embedding[3], norm[3], status[3] = np.nan, np.nan, Status.UNREADABLE
    crop = rng.random((rows, 5), dtype=np.float32)
    return ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)


def column_of(shape: SplitShape, name: str) -> np.ndarray:
    """Return a whole column (V, N, ...)."""
    views = [
        [getattr(chunk_of(shape, ChunkKey(view, index)), name) for index in range(shape.chunks)]
        for view in range(shape.views)
    ]
    return np.stack([np.concatenate(chunks) for chunks in views])


def create(path: Path, shape: SplitShape = SHAPE, split: str = "train") -> None:
    create_store(path, TEACHER)
    create_split(
        path,
        split,
        dataset=dataset_of(shape),
        rows=shape.rows,
        views=shape.views,
        dim=shape.dim,
        labels=labels_of(shape),
        thumbs=thumbs_of(shape),
        encoding=shape.encoding,
    )


def write(path: Path, keys: Iterable[ChunkKey], shape: SplitShape = SHAPE) -> None:
    for key in keys:
        write_chunk(path, "train", key, chunk_of(shape, key))


def written(path: Path, shape: SplitShape = SHAPE) -> Split:
    """Write a complete split and open it."""
    create(path, shape)
    write(path, shape.chunk_keys, shape)
    return open_store(path).split("train")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, by relative name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def states(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time of change and the bytes of every file below a folder, by relative name."""
    return {name: ((folder / name).stat().st_mtime_ns, data) for name, data in contents(folder).items()}
