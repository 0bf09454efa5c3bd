"""Images in parquet or arrow files, one per row: a binary column or, as Hugging Face has it, {bytes, path}; labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import WrongUse
from pipeline.images.class_names import class_names
from pipeline.images.image_names import ImageNames
from pipeline.images.table_columns import (
    IMAGE,
    LABEL,
    class_label_columns,
    class_values,
    image_column,
    label_column,
    label_names,
    numbered,
)
from pipeline.images.table_files import group_lengths, is_arrow, read_columns, read_group, read_schema


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user chose: columns of parquet files, and the split to take as val. None where nothing was chosen."""

    image_column: str | None = None
    label_column: str | None = None
    val: str | None = None


NO_CHOICE = Choice()


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """The rows of parquet or arrow files below `data`. column: of the images.

    Row groups are read as a whole and the last two stay in memory, so reading rows in order is cheap.
    """

    data: Path
    files: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    column: str = IMAGE
    label_column: str | None = LABEL
    label_columns: tuple[str, ...] = ()

    @property
    def place(self) -> dict[str, Any]:
        other = {} if self.column == IMAGE else {"column": self.column}
        return {"files": list(self.files), **other}

    def read(self, row: int) -> bytes:
        groups, starts = self._groups
        number = int(np.searchsorted(starts, row, side="right")) - 1
        file, group = groups[number]
        path = self.data / file
        images = _row_group(path, group, self.column, path.stat().st_mtime_ns)
        data = images[row - int(starts[number])].as_py()
        if data is None:
            raise OSError("the row has a path and no bytes")
        return data

    @cached_property
    def _groups(self) -> tuple[list[tuple[str, int]], NDArray[np.int64]]:
        """Row groups as (file, number in the file), and the first row of each."""
        groups, lengths = [], [0]
        for file in self.files:
            for group, rows in enumerate(group_lengths(self.data / file)):
                groups.append((file, group))
                lengths.append(rows)
        return groups, np.cumsum(lengths)[:-1]


@lru_cache(maxsize=2)
def _row_group(path: Path, group: int, column: str, changed: int) -> pa.ChunkedArray:
    """Return the bytes of the images. changed: the file's modification time, so that a rewritten file is read anew."""
    try:
        is_struct = pa.types.is_struct(read_schema(path).field(column).type)
        table = read_group(path, group, [f"{column}.bytes" if is_struct else column])
        # not combined into one array, which holds no more than 2 GiB
        return pc.struct_field(table[column], "bytes") if is_struct else table[column]
    except (pa.ArrowException, KeyError) as error:
        raise OSError(f"row group {group} of {path.name} is damaged: {error}") from error


def open_tables(
    data: Path, splits: Mapping[str, list[str]], choice: Choice = NO_CHOICE
) -> dict[str, TableSource]:
    """Return for each split the rows of its files below `data`, in the order of the files.

    splits: split name to file names. Raises WrongUse when a file cannot be read or has no images.
    """
    parts = {split: [_read_part(data, file, choice) for file in files] for split, files in splits.items()}
    for split, read in parts.items():
        if not sum(len(part.labels) for part in read):
            raise WrongUse(f"the files of {split} in {data} hold no rows; expected one image per row")
    every = [part for read in parts.values() for part in read]
    columns = sorted({part.column for part in every})
    if len(columns) > 1:
        raise WrongUse(f"{data} has images in {', '.join(columns)}; choose one with --image-column")
    if len({part.label_column for part in every if part.label_column}) > 1:
        raise WrongUse(f"the files in {data} have labels in several columns; choose --label-column")
    classes = class_names(data, [(part.labels, part.class_names) for part in every])
    return {
        split: TableSource(
            data=data,
            files=tuple(files),
            names=_row_names(files, parts[split]),
            labels=numbered([part.labels for part in parts[split]], classes),
            classes=classes,
            column=columns[0],
            label_column=every[0].label_column,
            label_columns=every[0].label_columns,
        )
        for split, files in splits.items()
    }


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A file without the bytes of its images. paths: None without a column of paths. labels: as `class_values`."""

    column: str
    label_column: str | None
    label_columns: tuple[str, ...]
    paths: list[str | None] | None
    labels: pa.ChunkedArray
    class_names: tuple[str, ...]


def _read_part(data: Path, name: str, choice: Choice) -> _Part:
    path = data / name
    try:
        schema = read_schema(path)
        column = image_column(schema, choice.image_column, f"{path}")
        label = label_column(schema, choice.label_column, f"{path}")
        kind = schema.field(column).type
        has_paths = pa.types.is_struct(kind) and "path" in [field.name for field in kind]
        columns = [*([f"{column}.path"] if has_paths else []), *([label] if label else [])]
        table = read_columns(path, columns)
        rows = sum(group_lengths(path))
    except pa.ArrowException as error:
        kind = "arrow" if is_arrow(path) else "parquet"
        raise WrongUse(f"cannot read {path} as {kind}: {error}") from error
    labels = table[label] if label else pa.chunked_array([pa.nulls(rows, pa.int64())])
    return _Part(
        column=column,
        label_column=label,
        label_columns=tuple(class_label_columns(schema)),
        paths=pc.struct_field(table[column], "path").to_pylist() if has_paths else None,
        labels=class_values(labels, f"{path}, column {label}"),
        class_names=label_names(schema, label),
    )


def _row_names(files: Sequence[str], parts: Sequence[_Part]) -> ImageNames:
    """Return the paths in the files if they are present and unique, else FILE/NUMBER."""
    paths = [path for part in parts for path in ([None] if part.paths is None else part.paths)]
    named = [path for path in paths if path]
    if len(named) == len(paths) == len(set(named)):
        return ImageNames(named)
    counts = zip(files, (len(part.labels) for part in parts), strict=True)
    return ImageNames(f"{file}/{row:08}" for file, count in counts for row in range(count))
