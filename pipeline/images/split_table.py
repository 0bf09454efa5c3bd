"""SPLIT.parquet, the table of a split: one row per image; its metadata holds the split's identity and settings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache.durable import whole_file
from pipeline.images import table_files
from pipeline.images.examine import ExaminedImages
from pipeline.images.file_names import escape
from pipeline.images.sources import Source

MADE_OF = b"anchorage"  # the metadata key of identity and settings
NEEDED_COLUMNS = {"path", "label", "sha256", "readable", "thumb"}
ROWS_PER_PART = 1 << 16


def write_table(path: Path, source: Source, found: ExaminedImages, made_of: dict[str, Any]) -> None:
    """Write the table of a source's images; made_of: the split's identity and the settings of `pack`."""
    metadata = {MADE_OF: json.dumps(made_of).encode()}
    parts = (part.replace_schema_metadata(metadata) for part in _parts(source, found))
    with whole_file(path, resumes=False) as temporary:
        table_files.write_parts(temporary, parts)


def _parts(source: Source, found: ExaminedImages) -> Iterator[pa.Table]:
    """Yield the table a few rows at a time, so that memory does not grow with the images."""
    for start in range(0, len(source.names), ROWS_PER_PART):
        part = slice(start, start + ROWS_PER_PART)
        records = found.table[part]
        rows = range(start, start + len(records))
        columns = {
            "row": pa.array(rows, pa.int64()),
            **_names_and_labels(source, part),
            "sha256": hexadecimal(records["sha256"]),
            "readable": pa.array(records["readable"]),
            "reason": pa.array(
                [escape(found.reasons[row]) if row in found.reasons else None for row in rows], pa.string()
            ),
            "thumb": pa.array(records["thumb"]),
            "width": pa.array(records["width"]),
            "height": pa.array(records["height"]),
        }
        yield pa.table(columns)


def replace_names_and_labels(path: Path, source: Source, identity: dict[str, Any]) -> None:
    """Replace the paths, labels and identity in a table, atomically; all other columns stay."""
    table = table_files.read_columns(path, table_files.read_schema(path).names)
    made_of = {**json.loads(table.schema.metadata[MADE_OF]), "identity": identity}
    for name, values in _names_and_labels(source).items():
        table = table.set_column(table.schema.names.index(name), name, values)
    with whole_file(path) as temporary:
        table_files.write_table(
            temporary, table.replace_schema_metadata({MADE_OF: json.dumps(made_of).encode()})
        )


def _names_and_labels(source: Source, part: slice = slice(None)) -> dict[str, pa.Array]:
    return {
        "path": pa.array([escape(name) for name in source.names[part]], pa.string()),
        "label": pa.array(source.labels[part]),
    }


def read_made_of(path: Path) -> dict[str, Any] | None:
    """Return the identity and settings in a SPLIT.parquet; None if there is none or another program wrote it."""
    try:
        return json.loads((table_files.read_schema(path).metadata or {})[MADE_OF])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def hexadecimal(hashes: NDArray[np.uint8]) -> pa.Array:
    """Return hashes (N, 32) as strings of 64 digits, without a Python object for each."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = digits[np.stack([hashes >> 4, hashes & 15], axis=2)].tobytes()
    ends = np.arange(0, len(text) + 1, 64, dtype=np.int64)
    found = pa.LargeStringArray.from_buffers(len(hashes), pa.py_buffer(ends), pa.py_buffer(text))
    return found.cast(pa.string())


def content_hashes(table: pa.Table) -> NDArray[np.uint8]:
    """Return the sha256 (N, 32) of each image's bytes."""
    hexadecimal = "".join(table["sha256"].to_pylist())
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32)
