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

from cache.archive import place_of
from cache.columns import Column, chunk_columns, row_columns
from cache.durable import sync, write_file
from cache.errors import StoreError
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
    staging = path.with_name(f".{path.name}~{secrets.token_hex(4)}.tmp")
    how = {"codec": "zstd", "level": LEVEL, "bits": bits, "made": secrets.token_hex(8)}
    splits = [store.split(name) for name in store.splits]
    chunks = [(split, key) for split in splits for key in split.shape.chunk_keys]
    try:
        _write_files(staging, archive_metadata(teacher, store.origin, how))
        for split in splits:
            _create_split(staging / split.name, split)
        for done, (split, key) in enumerate(chunks, start=1):
            for column in chunk_columns(split.shape):
                rows = split.column(column.name, key)
                if column.name == "embedding" and bits:
                    rows = rounded(rows, bits)
                _array(staging / split.name, column)[place_of(column, split.shape, key)] = rows
            if progress:
                progress(done, len(chunks))
        os.rename(staging, path)
        sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; fix the cause and try again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _create_split(folder: Path, split: Split) -> None:
    shape, crop_scale = split.shape, read_split_attributes(split.path, split.name)[2]
    codecs = [ZstdCodec(level=LEVEL), Crc32cCodec()]
    files = split_metadata(shape, split.dataset, crop_scale, codecs)
    columns = {column.name for column in (*row_columns(shape), *chunk_columns(shape))}
    arrays = {name: data for name, data in files.items() if name.split("/")[0] in columns}
    _write_files(
        folder, arrays | {"zarr.json": files["zarr.json"]}
    )  # without a ledger, which is of a store's files
    for column, values in zip(row_columns(shape), (split.label, split.thumb), strict=True):
        _array(folder, column)[:] = values


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        write_file(folder / name, data, resumes=False)


def rounded(rows: NDArray[np.float16], bits: int) -> NDArray[np.float16]:
    """Return float16 rows with so many bits of the mantissa, the others zero, which compress better."""
    encoded = numcodecs.BitRound(bits).encode(rows.copy())
    return np.frombuffer(np.asarray(encoded).tobytes(), np.float16).reshape(rows.shape)


def _array(folder: Path, column: Column) -> zarr.Array[Any]:
    return zarr.open_array(
        folder / column.name, mode="r+", zarr_format=3, config={"write_empty_chunks": True}
    )
