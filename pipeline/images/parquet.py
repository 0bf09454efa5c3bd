"""Images in parquet files as Hugging Face writes them: a column image = {bytes, path}, and optionally label."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import WrongUse

MOST_UNNAMED = 100_000  # a larger label is probably not a class but some other number


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """The rows of parquet files below `data`.

    Row groups are read as a whole and the last two stay in memory, so reading rows in order is cheap.
    """

    data: Path
    files: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def place(self) -> dict[str, Any]:
        return {"files": list(self.files)}

    def read(self, row: int) -> bytes:
        groups, starts = self._groups
        number = int(np.searchsorted(starts, row, side="right")) - 1
        file, group = groups[number]
        path = self.data / file
        column = _row_group(path, group, path.stat().st_mtime_ns)
        return column[row - int(starts[number])].as_py() or b""

    @cached_property
    def _groups(self) -> tuple[list[tuple[str, int]], NDArray[np.int64]]:
        """Row groups as (file, number in the file), and the first row of each."""
        groups, lengths = [], [0]
        for file in self.files:
            metadata = pq.read_metadata(self.data / file)
            for group in range(metadata.num_row_groups):
                groups.append((file, group))
                lengths.append(metadata.row_group(group).num_rows)
        return groups, np.cumsum(lengths)[:-1]


@lru_cache(maxsize=2)
def _row_group(path: Path, group: int, changed: int) -> pa.Array:
    """Return the bytes of the images. changed: the file's modification time, so that a rewritten file is read anew."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=["image.bytes"], use_threads=False)
        return table["image"].combine_chunks().field("bytes")
    except pa.ArrowException as error:
        raise OSError(f"row group {group} of {path.name} is damaged: {error}") from error


def open_parquet(data: Path, splits: Mapping[str, list[str]]) -> dict[str, ParquetSource]:
    """Return for each split the rows of its files below `data`, in the order of the files.

    splits: split name to file names. Raises WrongUse when a file is not parquet or has other columns.
    """
    tables = {split: [_index_of(data / file) for file in files] for split, files in splits.items()}
    for split, parts in tables.items():
        if not sum(map(len, parts)):
            raise WrongUse(f"the parquet files of {split} in {data} hold no rows; expected one image per row")
    classes = _class_names(data, [table for parts in tables.values() for table in parts])
    return {
        split: ParquetSource(
            data=data,
            files=tuple(files),
            names=_row_names(files, tables[split]),
            labels=np.concatenate([_labels(table) for table in tables[split]]),
            classes=classes,
        )
        for split, files in splits.items()
    }


def _index_of(path: Path) -> pa.Table:
    """Read everything in a file but the bytes of its images."""
    try:
        schema = pq.read_schema(path)
        columns = ["image.path", *(["label"] if "label" in schema.names else [])]
        image = schema.field("image").type if "image" in schema.names else None
        if image is None or not pa.types.is_struct(image) or {"bytes", "path"} - {f.name for f in image}:
            found = ", ".join(schema.names)
            raise WrongUse(f"{path}: expected a column image with fields bytes and path, found {found}")
        kind = image.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise WrongUse(f"{path}: expected the images' bytes as binary, found {kind}")
        with pq.ParquetFile(path) as file:
            table = file.read(columns=columns)
    except pa.ArrowException as error:
        raise WrongUse(f"cannot read {path} as parquet: {error}") from error
    if "label" in columns and not pa.types.is_integer(schema.field("label").type):
        raise WrongUse(f"{path}: expected whole numbers in column label, found {schema.field('label').type}")
    return table


def _labels(table: pa.Table) -> NDArray[np.int64]:
    if "label" not in table.column_names:
        return np.full(len(table), -1, np.int64)
    return table["label"].fill_null(-1).to_numpy().astype(np.int64)


def _row_names(files: list[str], tables: list[pa.Table]) -> list[str]:
    """Return the paths in the files if they are present and unique, else FILE/NUMBER."""
    paths = [path for table in tables for path in pc.struct_field(table["image"], "path").to_pylist()]
    if all(paths) and len(set(paths)) == len(paths):
        return paths
    lengths = zip(files, map(len, tables), strict=True)
    return [f"{file}/{row:08}" for file, length in lengths for row in range(length)]


def _class_names(data: Path, tables: list[pa.Table]) -> tuple[str, ...]:
    """Return the class names: from Hugging Face's metadata, else from classes.txt, else the label numbers."""
    labels = np.concatenate([_labels(table) for table in tables])
    highest, lowest = int(labels.max()), int(labels.min())
    if lowest < -1:
        raise WrongUse(f"{data}: a label is {lowest}; expected 0 or more, or -1 for none")
    known = {_hugging_face_names(table.schema) for table in tables} - {()}
    if len(known) > 1:
        raise WrongUse(f"the parquet files in {data} name different classes")
    listed = data / "classes.txt"
    if not known and listed.exists():
        known = {_listed(listed)}
    if not known and highest > MOST_UNNAMED:
        raise WrongUse(
            f"{data}: a label is {highest}, but more than {MOST_UNNAMED:,} classes need names; "
            "list them in classes.txt, one per line"
        )
    classes = known.pop() if known else tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes):
        raise WrongUse(f"{data} names {len(classes)} classes, but a label is {highest}")
    return classes


def _listed(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except ValueError as error:
        raise WrongUse(f"{path} is not text in UTF-8: {error}") from error


def _hugging_face_names(schema: pa.Schema) -> tuple[str, ...]:
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in info["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
