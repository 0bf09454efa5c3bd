"""Images in parquet files, one per row: a binary column or, as Hugging Face writes them, {bytes, path}; with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import WrongUse, suggest
from pipeline.images.parquet_columns import (
    IMAGE,
    LABEL,
    class_label_columns,
    class_values,
    image_column,
    label_column,
    label_names,
    numbered,
)
from pipeline.images.parquet_files import read_columns, read_metadata, read_row_group, read_schema
from pipeline.images.split_names import PARQUET, SPLITS

MOST_UNNAMED = 100_000  # a larger label is probably not a class but some other number


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user chose: columns of parquet files, and the split to take as val. None where nothing was chosen."""

    image_column: str | None = None
    label_column: str | None = None
    val: str | None = None


NO_CHOICE = Choice()


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """The rows of parquet files below `data`. column: of the images.

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
            metadata = read_metadata(self.data / file)
            for group in range(metadata.num_row_groups):
                groups.append((file, group))
                lengths.append(metadata.row_group(group).num_rows)
        return groups, np.cumsum(lengths)[:-1]


@lru_cache(maxsize=2)
def _row_group(path: Path, group: int, column: str, changed: int) -> pa.Array:
    """Return the bytes of the images. changed: the file's modification time, so that a rewritten file is read anew."""
    try:
        is_struct = pa.types.is_struct(read_schema(path).field(column).type)
        table = read_row_group(path, group, [f"{column}.bytes" if is_struct else column])
        images = table[column].combine_chunks()
        return pc.struct_field(images, "bytes") if is_struct else images
    except (pa.ArrowException, KeyError) as error:
        raise OSError(f"row group {group} of {path.name} is damaged: {error}") from error


def split_files(data: Path, files: Sequence[str], val: str | None = None) -> dict[str, list[str]]:
    """Return the parquet files of each split, with all their parts. val: the split to take as val.

    Raises WrongUse for a file that names no split, and for missing parts.
    """
    splits: dict[str, list[str]] = {}
    for file in files:
        if not (match := PARQUET.fullmatch(file)):
            expected = "train.parquet or val-00000-of-00002.parquet"
            raise WrongUse(f"{data / file} names no split; expected names like {expected}")
        splits.setdefault(SPLITS[match["split"]], []).append(file)
    for split, parts in splits.items():
        counts = {int(match["parts"] or 1) for part in parts if (match := PARQUET.fullmatch(part))}
        if counts != {len(parts)}:
            wanted = " or ".join(map(str, sorted(counts)))
            raise WrongUse(f"{data}: expected {wanted} files of {split}, found {len(parts)}: {parts[0]} ...")
    if val is not None:
        if SPLITS.get(val) not in splits:
            raise WrongUse(f"--val-split {val}: {data} has no files of {val}{suggest(val, splits)}")
        splits["val"] = splits.pop(SPLITS[val])
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def open_parquet(
    data: Path, splits: Mapping[str, list[str]], choice: Choice = NO_CHOICE
) -> dict[str, ParquetSource]:
    """Return for each split the rows of its files below `data`, in the order of the files.

    splits: split name to file names. Raises WrongUse when a file is not parquet or has no images.
    """
    parts = {split: [_read_part(data, file, choice) for file in files] for split, files in splits.items()}
    for split, read in parts.items():
        if not sum(len(part.labels) for part in read):
            raise WrongUse(f"the parquet files of {split} in {data} hold no rows; expected one image per row")
    every = [part for read in parts.values() for part in read]
    columns = sorted({part.column for part in every})
    if len(columns) > 1:
        raise WrongUse(f"{data} has images in {', '.join(columns)}; choose one with --image-column")
    if len({part.label_column for part in every if part.label_column}) > 1:
        raise WrongUse(f"the parquet files in {data} have labels in several columns; choose --label-column")
    classes = _class_names(data, every)
    return {
        split: ParquetSource(
            data=data,
            files=tuple(files),
            names=_row_names(files, parts[split]),
            labels=np.concatenate(numbered([part.labels for part in parts[split]], classes)),
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
        rows = read_metadata(path).num_rows
    except pa.ArrowException as error:
        raise WrongUse(f"cannot read {path} as parquet: {error}") from error
    labels = table[label] if label else pa.chunked_array([pa.nulls(rows, pa.int64())])
    return _Part(
        column=column,
        label_column=label,
        label_columns=tuple(class_label_columns(schema)),
        paths=pc.struct_field(table[column], "path").to_pylist() if has_paths else None,
        labels=class_values(labels, f"{path}, column {label}"),
        class_names=label_names(schema, label),
    )


def _row_names(files: Sequence[str], parts: Sequence[_Part]) -> list[str]:
    """Return the paths in the files if they are present and unique, else FILE/NUMBER."""
    paths = [path for part in parts for path in ([None] if part.paths is None else part.paths)]
    named = [path for path in paths if path]
    if len(named) == len(paths) == len(set(named)):
        return named
    counts = zip(files, (len(part.labels) for part in parts), strict=True)
    return [f"{file}/{row:08}" for file, count in counts for row in range(count)]


def _class_names(data: Path, parts: Sequence[_Part]) -> tuple[str, ...]:
    """Return the class names: labels that are words, Hugging Face's metadata, classes.txt, or the label numbers."""
    words = [part.labels for part in parts if pa.types.is_large_string(part.labels.type)]
    if words:
        if len(words) < len(parts):
            raise WrongUse(f"the labels in {data} are words in some files and numbers in others")
        return tuple(
            sorted({word for part in words for word in part.unique().to_pylist() if word is not None})
        )
    labels = np.concatenate(numbered([part.labels for part in parts], ()))
    highest, lowest = int(labels.max()), int(labels.min())
    if lowest < -1:
        raise WrongUse(f"{data}: a label is {lowest}; expected 0 or more, or -1 for none")
    known = {part.class_names for part in parts} - {()}
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
        # not splitlines, which also breaks a name at characters such as U+2028
        return tuple(line.strip() for line in path.read_text("utf-8").split("\n") if line.strip())
    except ValueError as error:
        raise WrongUse(f"{path} is not text in UTF-8: {error}") from error
