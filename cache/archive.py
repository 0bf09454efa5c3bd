"""Archives: stores whose arrays are compressed with zstd, to keep and to send.

Rows of an archive cannot be mapped, so opening one decodes it once into a copy in the user's cache folder.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.columns import Column, chunk_columns, row_columns
from cache.durable import write_file
from cache.errors import CorruptStore
from cache.layout import ChunkKey, SplitShape
from cache.lock import held
from cache.metadata import archive_of, read_split_attributes, read_store, split_names
from cache.writer import absent_chunks, create_split, create_store, write_columns

WAIT_S = 0.5


def local_copy(path: Path) -> Path:
    """Return the store that an archive was decoded into, in the user's cache folder; decode what is missing.

    Processes that want it at the same time wait for the one that decodes. Raises CorruptStore for a damaged archive.
    """
    how, found = archive_of(path), read_store(path, archive=True)
    assert how is not None, path
    place = hashlib.sha256(f"{path.resolve()}\0{how.get('made')}".encode()).hexdigest()[:24]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    copy = home / "anchorage" / "archives" / f"{place}.zarr"
    complete = copy / ".decoded"
    while not complete.exists():
        with held(copy.with_suffix(".lock")) as mine:
            if mine:
                print(f"decoding the archive {path}, once, into {copy}", flush=True)
                create_store(copy, found["teacher"], found.get("origin", {}))
                for name in split_names(path):
                    _decode(path, copy, name)
                write_file(complete, b"")
        if not complete.exists():
            time.sleep(WAIT_S)
    return copy


def damaged_arrays(path: Path) -> Iterator[tuple[str, str]]:
    """Yield split and name of an archive's arrays that cannot be decoded as a whole."""
    for name in split_names(path):
        shape = read_split_attributes(path, name)[0]
        of_rows = [ChunkKey(0, index) for index in range(shape.chunks)]
        for column in (*row_columns(shape), *chunk_columns(shape)):
            try:
                for key in shape.chunk_keys if column.views else of_rows:
                    _read(path / name, column, shape, key)
            except CorruptStore:
                yield name, column.name


def _decode(path: Path, copy: Path, name: str) -> None:
    shape, dataset, crop_scale = read_split_attributes(path, name)
    labels, thumbs = (
        np.concatenate(
            [_read(path / name, column, shape, ChunkKey(0, index)) for index in range(shape.chunks)]
        )
        for column in row_columns(shape)
    )
    create_split(
        copy,
        name,
        dataset=dataset,
        rows=shape.rows,
        views=shape.views,
        dim=shape.dim,
        labels=labels,
        thumbs=thumbs,
        crop_scale=crop_scale,
        encoding=shape.encoding,
    )
    for key in absent_chunks(copy, name):
        columns = chunk_columns(shape)
        write_columns(copy, name, key, {each.name: _read(path / name, each, shape, key) for each in columns})


def place_of(column: Column, shape: SplitShape, key: ChunkKey) -> tuple[int | slice, ...]:
    """Return where the rows of a chunk are in a column's array."""
    rows = shape.rows_of(key)
    inside = slice(rows.start, rows.stop)
    return (key.view, inside) if column.views else (inside,)


def _read(folder: Path, column: Column, shape: SplitShape, key: ChunkKey) -> NDArray[Any]:
    try:
        if not (folder / column.file_name(key)).exists():  # zarr would read it as its fill value
            raise FileNotFoundError(column.file_name(key))
        array = zarr.open_array(folder / column.name, mode="r", zarr_format=3)
        return np.ascontiguousarray(array[place_of(column, shape, key)], column.dtype)
    except Exception as error:  # of damaged arrays zarr may raise anything
        raise CorruptStore(
            f"{folder / column.name} of the archive is damaged ({error}); fetch or make it again"
        ) from error
