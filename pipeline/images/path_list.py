"""Images named in a list: a CSV or parquet file with a column of paths, and perhaps of labels and of splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import WrongUse, suggest
from pipeline.images.class_names import class_names
from pipeline.images.image_names import ImageNames
from pipeline.images.split_names import chosen_split, in_order, similar_split
from pipeline.images.table_columns import class_values, holds_images, numbered
from pipeline.images.table_files import read_columns, read_csv, read_schema
from pipeline.images.tables import Choice

LISTS = (".csv", ".tsv", ".parquet")
PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
LABEL_NAMES = ("label", "class", "target")
SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class ListedSource:
    """Image files named in a list. names: paths relative to its folder, `data`, or absolute ones."""

    data: Path
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def place(self) -> dict[str, Any]:
        return {"folder": "."}

    def read(self, row: int) -> bytes:
        return (self.data / self.names[row]).read_bytes()


def open_list(file: Path, choice: Choice) -> dict[str, ListedSource]:
    """Return the images of each split that a list names, in its order; without a column `split`, all are train.

    Raises WrongUse for a file that is no list, a missing or an empty path, one that is named twice, and a split of
    another name.
    """
    table = _read(file)
    path = _column(table, choice.image_column, PATH_NAMES, file)
    if path is None:
        raise WrongUse(
            f"{file} has the columns {', '.join(table.schema.names)}; expected one of paths, called path"
        )
    names = table[path].cast(pa.large_string())
    if names.null_count or pc.any(pc.equal(names, "")).as_py():
        raise WrongUse(f"{file}: a row has no {path}")
    label = _column(table, choice.label_column, LABEL_NAMES, file)
    values = table[label] if label else pa.chunked_array([pa.nulls(len(table), pa.int64())])
    labels = class_values(values, f"{file}, column {label}")
    classes = class_names(file.parent, [(labels, ())]) if len(table) else ()
    numbers = numbered([labels], classes)
    found = {}
    for split, rows in _splits(table, file, choice.val).items():
        own = names.take(pa.array(rows)).to_pylist()
        if len(set(own)) < len(own):
            twice = next(name for name in own if own.count(name) > 1)
            raise WrongUse(f"{file}: {twice} is listed twice in {split}")
        found[split] = ListedSource(
            data=file.parent, names=ImageNames(own), labels=numbers[rows], classes=classes
        )
    return found


def _read(file: Path) -> pa.Table:
    try:
        if file.suffix.lower() != ".parquet":
            return read_csv(file)
        schema = read_schema(file)
        if any(holds_images(field) for field in schema):
            raise WrongUse(f"{file} holds images and not paths; give the folder that it is in, {file.parent}")
        return read_columns(file, [field.name for field in schema])
    except (OSError, pa.ArrowException) as error:
        raise WrongUse(f"cannot read the list {file}: {error}") from error


def _column(table: pa.Table, chosen: str | None, usual: Sequence[str], file: Path) -> str | None:
    """Return the chosen column, or the first of the usual names that is there."""
    names: list[str] = table.schema.names
    if chosen is None:
        return next((name for name in usual if name in names), None)
    if chosen not in names:
        raise WrongUse(f"{file} has no column {chosen!r}; it has {', '.join(names)}{suggest(chosen, names)}")
    return chosen


def _splits(table: pa.Table, file: Path, val: str | None) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each split."""
    if not len(table):
        raise WrongUse(f"{file} lists no images")
    if SPLIT not in table.schema.names:
        if val is not None:
            raise WrongUse(f"--val-split {val}: {file} has no column split")
        return {"train": np.arange(len(table))}
    column = np.array(table[SPLIT].cast(pa.large_string()).to_pylist(), object)
    words = [str(word) for word in dict.fromkeys(column)]
    if val is not None and val not in words:
        raise WrongUse(f"--val-split {val}: {file} has the splits {', '.join(words)}{suggest(val, words)}")
    found: dict[str, list[NDArray[np.int64]]] = {}
    for word in words:
        if word != val and similar_split(word) is None:
            raise WrongUse(f"{file}: expected the splits train, val and test, found {word!r}")
        if split := chosen_split(word, val):
            found.setdefault(split, []).append(np.flatnonzero(column == word))
    if "train" not in found:
        raise WrongUse(f"{file} has the splits {', '.join(words)}; expected one called train")
    return {split: np.sort(np.concatenate(rows)) for split, rows in in_order(found).items()}
