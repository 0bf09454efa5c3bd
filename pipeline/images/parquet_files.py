"""The only door to pyarrow.parquet. Files are opened here, as pyarrow would read a path like run:1/ds as a URI."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_schema(path: Path) -> pa.Schema:
    """Return a file's schema. Raises OSError and pa.ArrowException."""
    with path.open("rb") as file:
        return pq.read_schema(file)


def read_metadata(path: Path) -> Any:
    """Return a file's metadata: row groups and their sizes. Raises OSError and pa.ArrowException."""
    with path.open("rb") as file:
        return pq.read_metadata(file)


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a file; a field of a struct is COLUMN.FIELD. Raises OSError and pa.ArrowException."""
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        return file.read(columns=list(columns))


def read_row_group(path: Path, group: int, columns: Sequence[str]) -> pa.Table:
    """Read columns of one row group. Raises OSError and pa.ArrowException."""
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        return file.read_row_group(group, columns=list(columns), use_threads=False)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table into a file, compressed with zstd. Raises OSError."""
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
