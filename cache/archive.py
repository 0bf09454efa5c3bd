"""Archives: stores whose arrays are compressed with zstd, to keep and to send.

Rows of an archive cannot be mapped, so opening one decodes it once into a copy in the user's cache folder.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.columns import Column, chunk_columns, encode, row_columns
from cache.durable import write_file
from cache.errors import CorruptStore, StoreError
from cache.layout import ChunkKey, SplitShape
from cache.ledger import chunk_ledger, ledger_entry, mark, row_ledger
from cache.lock import waited_for
from cache.metadata import archive_of, read_split_attributes, read_store, split_names
from cache.user_folder import user_folder
from cache.writer import absent_chunks, create_split, create_store, write_columns

Rows = NDArray[Any]
Marks = Callable[[ChunkKey], int]  # `cache.ledger.mark` of a split's chunks


class DamagedArray(CorruptStore):
    """An array of an archive cannot be decoded, or part of it lies in another's place."""

    def __init__(self, array: Path, reason: str) -> None:
        super().__init__(f"{array} of the archive is damaged ({reason}); fetch or make it again")
        self.array, self.reason = array.name, reason


def decoded_copy(path: Path) -> Path:
    """Return the store that an archive was decoded into, in the user's cache folder; decode what is missing.

    Processes that want it at the same time wait for the one that decodes. Raises CorruptStore for a damaged archive,
    StoreError if the copy cannot be written.
    """
    how, found = archive_of(path), read_store(path, archive=True)
    assert how is not None, path
    place = hashlib.sha256(f"{path.resolve()}\0{how.get('made')}".encode()).hexdigest()[:16]
    copy = user_folder("archives") / f"{path.stem}-{place}.zarr"
    try:
        if _is_whole(path, copy):
            return copy
        with waited_for(copy.with_suffix(".lock")):
            if not _is_whole(path, copy):
                print(f"decoding the archive {path}, once, into {copy}", file=sys.stderr, flush=True)
                create_store(copy, found["teacher"], found.get("origin", {}))
                for name in split_names(path):
                    _decode(path, copy, name, found["id"])
                write_file(copy / ".decoded", b"")
    except CorruptStore:
        raise
    except StoreError as error:
        raise StoreError(
            f"the archive {path} cannot be decoded into {copy} ({error}): set XDG_CACHE_HOME to a folder with room, or "
            f"make a store of it with `python cli.py cache convert {path} OUT.zarr --as fp16`"
        ) from error
    return copy


def _is_whole(path: Path, copy: Path) -> bool:
    """Whether an archive's copy was decoded to its end, and nothing of it was removed since."""
    if not (copy / ".decoded").exists():
        return False
    names = split_names(path)
    return split_names(copy) == names and not any(absent_chunks(copy, name) for name in names)


def damaged_arrays(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield split, array and reason of the first fault of each split of an archive."""
    store_id = read_store(path, archive=True)["id"]
    for name in split_names(path):
        shape, dataset, _ = read_split_attributes(path, name)
        try:
            marks = partial(mark, store_id, name, dataset)
            row_values(path / name, shape, marks)
            for key in shape.chunk_keys:
                chunk_values(path / name, shape, key, marks)
        except DamagedArray as error:
            yield name, error.array, error.reason


def entry_of(columns: tuple[Column, ...], values: Mapping[str, Rows], marked: int) -> NDArray[np.uint32]:
    """Return the ledger's entry of the chunk files that these rows become in a store: (1, files + 1)."""
    return ledger_entry((encode(column, values[column.name]) for column in columns), marked)


def chunk_values(folder: Path, shape: SplitShape, key: ChunkKey, marks: Marks) -> dict[str, Rows]:
    """Return the rows of each column of a chunk. Raises CorruptStore if they are not those that were archived there."""
    columns = chunk_columns(shape)
    values = {column.name: read_rows(folder, column, key) for column in columns}
    recorded = read_rows(folder, chunk_ledger(shape), key)
    if not np.array_equal(entry_of(columns, values, marks(key)), recorded):
        raise DamagedArray(folder / "embedding", f"chunk {key.index} of view {key.view} is another's")
    return values


def row_values(folder: Path, shape: SplitShape, marks: Marks) -> tuple[Rows, Rows]:
    """Return labels and thumbs (N,) of a split. Raises CorruptStore as `chunk_values`."""
    columns, found = row_columns(shape), []
    for index in range(shape.chunks):
        key = ChunkKey(0, index)
        values = {column.name: read_rows(folder, column, key) for column in columns}
        recorded = read_rows(folder, row_ledger(shape), key)
        if not np.array_equal(entry_of(columns, values, marks(key)), recorded):
            raise DamagedArray(folder / "label", f"chunk {index} is another's")
        found.append(values)
    labels, thumbs = (np.concatenate([values[name] for values in found]) for name in ("label", "thumb"))
    return labels, thumbs


def _decode(path: Path, copy: Path, name: str, store_id: str) -> None:
    shape, dataset, crop_scale = read_split_attributes(path, name)
    marks = partial(mark, store_id, name, dataset)
    labels, thumbs = row_values(path / name, shape, marks)
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
        write_columns(copy, name, key, chunk_values(path / name, shape, key, marks))


def place_of(column: Column, key: ChunkKey) -> tuple[int | slice, ...]:
    """Return where the rows of a chunk are in a column's array."""
    start = key.index * column.chunk_rows
    inside = slice(start, min(start + column.chunk_rows, column.rows))
    return (key.view, inside) if column.views else (inside,)


def read_rows(folder: Path, column: Column, key: ChunkKey) -> Rows:
    """Return the rows of a chunk of a column, or its entry of a ledger, (1, files + 1). Raises CorruptStore."""
    try:
        if not (folder / column.file_name(key)).exists():  # zarr would read it as its fill value
            raise FileNotFoundError(f"{column.file_name(key)} is missing")
        array = zarr.open_array(folder / column.name, mode="r", zarr_format=3)
        return np.ascontiguousarray(array[place_of(column, key)], column.dtype)
    except Exception as error:  # of damaged arrays zarr may raise anything
        raise DamagedArray(folder / column.name, str(error)) from error
