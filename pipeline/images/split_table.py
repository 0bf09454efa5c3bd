"""SPLIT.parquet, the table of a split: one row per image; its metadata holds the split's identity and settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache.durable import whole_file
from pipeline.images import table_files
from pipeline.images.file_names import escape
from pipeline.images.scan import ScannedImage
from pipeline.images.sources import Source

MADE_OF = b"anchorage"  # the metadata key of identity and settings
NEEDED_COLUMNS = {"path", "label", "sha256", "readable", "thumb"}


def write_table(path: Path, source: Source, found: list[ScannedImage], made_of: dict[str, Any]) -> None:
    """Write the table of a source's images; made_of: the split's identity and the settings of `pack`."""
    columns = {
        "row": pa.array(np.arange(len(found))),
        **_names_and_labels(source),
        "sha256": pa.array([image.sha256.hex() for image in found], pa.string()),
        "readable": pa.array([image.reason is None for image in found], pa.bool_()),
        "reason": pa.array([image.reason and escape(image.reason) for image in found], pa.string()),
        "thumb": pa.array([image.thumb for image in found], pa.uint64()),
        "width": pa.array([image.width for image in found], pa.int32()),
        "height": pa.array([image.height for image in found], pa.int32()),
    }
    table = pa.table(columns).replace_schema_metadata({MADE_OF: json.dumps(made_of).encode()})
    with whole_file(path) as temporary:
        table_files.write_table(temporary, table)


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


def _names_and_labels(source: Source) -> dict[str, pa.Array]:
    return {
        "path": pa.array([escape(name) for name in source.names], pa.string()),
        "label": pa.array(source.labels),
    }


def read_made_of(path: Path) -> dict[str, Any] | None:
    """Return the identity and settings in a SPLIT.parquet; None if there is none or another program wrote it."""
    try:
        return json.loads((table_files.read_schema(path).metadata or {})[MADE_OF])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def content_hashes(table: pa.Table) -> NDArray[np.uint8]:
    """Return the sha256 (N, 32) of each image's bytes."""
    hexadecimal = "".join(table["sha256"].to_pylist())
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32)
