"""Writing archives, see `cache.archive`."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from cache.archive import entry_of, place_of
from cache.columns import Column, chunk_columns, row_columns
from cache.durable import remove_leftovers_beside, sync, temporary_name, write_file
from cache.errors import StoreError
from cache.identity import identity_id
from cache.layout import ChunkKey
from cache.ledger import chunk_ledger, mark, row_ledger
from cache.metadata import read_split_attributes
from cache.reader import Split, Store
from cache.zarr_json import archive_metadata, split_metadata

LEVEL = 3


def write_archive(
    store: Store,
    path: Path,
    teacher: Mapping[str, Any],
    bits: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a complete store as an archive, whole or not at all.

    teacher: the archive's identity. bits: of each embedding value's mantissa are kept, from 1 to 10; None: all.
    progress(done, total): called after each chunk. Raises StoreError if `path` is taken, or the system refuses.
    """
    if path.exists():
        raise StoreError(f"{path} exists already: name another path, or delete it")
    path = path.resolve()
    remove_leftovers_beside(path)
    staging = path.with_name(temporary_name(path.name))
    how = {"codec": "zstd", "level": LEVEL, "bits": bits, "made": secrets.token_hex(8)}
    splits = [store.split(name) for name in store.splits]
    chunks = [(split, key) for split in splits for key in split.shape.chunk_keys]
    store_id = identity_id(teacher)
    try:
        _write_files(staging, archive_metadata(teacher, store.origin, how))
        for split in splits:
            _create_split(staging / split.name, split, store_id)
        for done, (split, key) in enumerate(chunks, start=1):
            columns, ledger = chunk_columns(split.shape), chunk_ledger(split.shape)
            _write_rows(staging / split.name, split, columns, ledger, key, store_id, bits)
            if progress:
                progress(done, len(chunks))
        _sync_all(staging)
        os.rename(staging, path)
        sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; fix the cause and try again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _create_split(folder: Path, split: Split, store_id: str) -> None:
    shape, crop_scale = split.shape, read_split_attributes(split.path, split.name)[2]
    _write_files(
        folder, split_metadata(shape, split.dataset, crop_scale, [ZstdCodec(level=LEVEL), Crc32cCodec()])
    )
    for index in range(shape.chunks):
        _write_rows(folder, split, row_columns(shape), row_ledger(shape), ChunkKey(0, index), store_id)


def _write_rows(
    folder: Path,
    split: Split,
    columns: tuple[Column, ...],
    ledger: Column,
    key: ChunkKey,
    store_id: str,
    bits: int | None = None,
) -> None:
    """Write the rows of a chunk of some columns, and their entry of the ledger."""
    values = {column.name: split.column(column.name, key) for column in columns}
    if bits:
        values["embedding"] = rounded(values["embedding"], bits)
    for column in columns:
        _array(folder, column)[place_of(column, key)] = values[column.name]
    marked = mark(store_id, split.name, split.dataset, key)
    _array(folder, ledger)[place_of(ledger, key)] = entry_of(columns, values, marked)


def _sync_all(folder: Path) -> None:
    """Flush a folder and all in it to the disk: zarr leaves that to the system."""
    for inner, _, names in os.walk(folder):
        for name in names:
            sync(Path(inner, name))
        sync(Path(inner))


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        write_file(folder / name, data, resumes=False)


def rounded(rows: NDArray[np.float16], bits: int) -> NDArray[np.float16]:
    """Return float16 rows with so many bits of the mantissa, the others zero, which compress better."""
    encoded = numcodecs.BitRound(bits).encode(rows.copy())
    return np.frombuffer(np.asarray(encoded).tobytes(), np.float16).reshape(rows.shape)


def _array(folder: Path, column: Column) -> zarr.Array[Any]:
    # a chunk that equals its fill value, as labels do where there are none, is written too
    array = zarr.open_array(folder / column.name, mode="r+", zarr_format=3)
    return array.with_config({"write_empty_chunks": True})
