"""Tables that `pack` reads and writes: parquet and CSV files, and the arrow files of Hugging Face's save_to_disk.

Files are opened here, as pyarrow would read a path like run:1/ds as a URI.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

ARROW = ".arrow"
ROWS_AT_ONCE = 1024


def is_arrow(path: Path) -> bool:
    """Whether a file is an arrow file, by its name."""
    return path.suffix.lower() == ARROW


def read_schema(path: Path) -> pa.Schema:
    """Return a file's schema. Raises OSError and pa.ArrowException."""
    if is_arrow(path):
        with _batches(path) as batches:
            return batches.schema
    with path.open("rb") as file:
        return pq.read_schema(file)


def group_lengths(path: Path) -> list[int]:
    """Return the rows of each row group, or of each batch of an arrow file. Raises OSError and pa.ArrowException."""
    if is_arrow(path):
        with _batches(path) as batches:
            return [batch.num_rows for batch in batches]
    with path.open("rb") as file:
        metadata = pq.read_metadata(file)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a file; a field of a struct is COLUMN.FIELD. Raises OSError and pa.ArrowException."""
    if is_arrow(path):
        with _batches(path) as batches:
            return _selected(batches.read_all(), columns)
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        return file.read(columns=list(columns))


def read_csv(path: Path) -> pa.Table:
    """Read a CSV file, or a TSV file by its name, with a header. Raises OSError and pa.ArrowException."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("rb") as file:
        # an empty field is missing, and a word such as NA or null is a word
        missing = csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
        return csv.read_csv(
            file, parse_options=csv.ParseOptions(delimiter=separator), convert_options=missing
        )


def read_group(path: Path, group: int, columns: Sequence[str]) -> pa.Table:
    """Read columns of one row group or batch. Raises OSError and pa.ArrowException."""
    if is_arrow(path):
        with _batches(path) as batches:
            found = next(batch for number, batch in enumerate(batches) if number == group)
            return _selected(pa.Table.from_batches([found]), columns)
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        # in parts, as pyarrow reads no struct of more than 2 GiB at once
        parts = file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(columns), use_threads=False)
        return pa.Table.from_batches(list(parts))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table into a parquet file, compressed with zstd. Raises OSError."""
    write_parts(path, [table])


def write_parts(path: Path, parts: Iterable[pa.Table]) -> None:
    """Write tables of one schema, at least one, one after the other into a parquet file, compressed with zstd."""
    parts = iter(parts)
    first = next(parts)
    with path.open("wb") as file, pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for part in chain([first], parts):
            writer.write_table(part)


@contextmanager
def _batches(path: Path) -> Iterator[Any]:
    """Open an arrow file as a stream of batches, mapped into memory: what is not looked at is not read."""
    with pa.memory_map(str(path.resolve())) as source:
        yield pa.ipc.open_stream(source)


def _selected(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return columns as parquet does: of a struct of which a field is named, that field alone."""
    found = {}
    for column in columns:
        name, _, field = column.rpartition(".")
        if column in table.schema.names:
            found[column] = table[column]
        else:
            parts = [pc.struct_field(chunk, field) for chunk in table[name].chunks]
            found[name] = pa.chunked_array([pa.StructArray.from_arrays([part], [field]) for part in parts])
    return pa.table(found).replace_schema_metadata(table.schema.metadata)
