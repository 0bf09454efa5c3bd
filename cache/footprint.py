"""The number of files and bytes that a store will take, before anything is written, and the bytes that one takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cache.columns import chunk_columns, row_columns
from cache.layout import SplitShape
from cache.ledger import chunk_ledger, row_ledger
from cache.zarr_json import split_metadata, store_metadata


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A number of files and their bytes, without the overhead of the file system."""

    files: int
    bytes: int

    def __add__(self, other: "Footprint") -> "Footprint":
        return Footprint(files=self.files + other.files, bytes=self.bytes + other.bytes)


def store_footprint(
    teacher: Mapping[str, Any], origin: Mapping[str, str] = MappingProxyType({})
) -> Footprint:
    """Return the footprint of a store without splits, as `create_store` writes it, including its lock file."""
    return _of(store_metadata(teacher, origin)) + Footprint(files=1, bytes=0)


def split_footprint(shape: SplitShape, dataset: Mapping[str, Any]) -> Footprint:
    """Return the footprint of a complete split, including its ledger. dataset: the dataset's identity."""
    total = _of(split_metadata(shape, dataset))
    of_chunks = [(column, shape.views) for column in (*chunk_columns(shape), chunk_ledger(shape))]
    of_rows = [(column, 1) for column in (*row_columns(shape), row_ledger(shape))]
    for column, views in of_chunks + of_rows:
        count = views * shape.chunks
        total += Footprint(files=count, bytes=count * column.file_bytes)
    return total


def folder_bytes(path: Path) -> int:
    """Return the bytes on disk of the files below a folder, such as a store or a split of it."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _of(files: Mapping[str, bytes]) -> Footprint:
    return Footprint(files=len(files), bytes=sum(map(len, files.values())))
