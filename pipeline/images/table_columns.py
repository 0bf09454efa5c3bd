"""Columns of parquet files: which one holds the images and which the labels, and labels of any type as numbers."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import WrongUse, suggest

IMAGE, LABEL = "image", "label"
IMAGE_NAMES = ("image", "img", "jpg", "png", "picture", "image_bytes", "bytes")


def image_column(schema: pa.Schema, chosen: str | None, where: str) -> str:
    """Return the column of images: `chosen`, else `image`, else the only one that can hold images.

    It is binary, or a struct {bytes, path}. Raises WrongUse when there is none, or several.
    """
    candidates = [field.name for field in schema if holds_images(field)]
    found = ", ".join(schema.names)
    if chosen is not None:
        if chosen not in schema.names:
            raise WrongUse(f"{where} has no column {chosen!r}; it has {found}{suggest(chosen, schema.names)}")
        _require_binary(schema, chosen, where)
        return chosen
    if IMAGE in candidates or len(candidates) == 1:
        return IMAGE if IMAGE in candidates else candidates[0]
    if candidates:
        raise WrongUse(f"{where} has images in {', '.join(candidates)}; choose one with --image-column")
    if IMAGE in schema.names and pa.types.is_struct(schema.field(IMAGE).type):
        _require_binary(schema, IMAGE, where)
    raise WrongUse(
        f"{where}: expected a column image with fields bytes and path, found {found}; "
        "name a column of binary images with --image-column"
    )


def _require_binary(schema: pa.Schema, column: str, where: str) -> None:
    kind = schema.field(column).type
    if bytes_type(kind) is None:
        raise WrongUse(f"{where}: expected the images' bytes as binary in column {column}, found {kind}")


def holds_images(field: pa.Field) -> bool:
    """Whether a column looks like images: a struct with bytes, or binary data under a usual name."""
    is_binary = bytes_type(field.type) is not None
    return is_binary and (pa.types.is_struct(field.type) or field.name.lower() in IMAGE_NAMES)


def bytes_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of an image column's bytes, None if it is not binary."""
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        kind = fields.get("bytes", pa.null())
    return kind if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


def label_column(schema: pa.Schema, chosen: str | None, where: str) -> str | None:
    """Return the column of labels: `chosen`, else `label`, else the only one that Hugging Face calls a class label.

    Raises WrongUse when the chosen column does not exist.
    """
    if chosen is not None and chosen not in schema.names:
        found = ", ".join(schema.names)
        raise WrongUse(f"{where} has no column {chosen!r}; it has {found}{suggest(chosen, schema.names)}")
    if chosen or LABEL in schema.names:
        return chosen or LABEL
    candidates = class_label_columns(schema)
    return candidates[0] if len(candidates) == 1 else None


def class_label_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that Hugging Face's metadata calls class labels."""
    return [name for name in schema.names if label_names(schema, name)]


def label_names(schema: pa.Schema, column: str | None) -> tuple[str, ...]:
    """Return the class names of a column in Hugging Face's metadata, () without any."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in info["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def class_values(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Return labels as int64 or strings. Raises WrongUse for labels that are neither whole numbers nor words."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        column = pc.if_else(column, "true", "false")
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.large_string())
    try:
        if pa.types.is_floating(kind):  # as pandas stores numbers when some are missing
            column = pc.if_else(pc.is_nan(column), None, column)
        if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise WrongUse(f"{where}: expected whole numbers below 2^63: {error}") from error
    raise WrongUse(f"{where}: expected whole numbers or words, found {kind}")


def numbered(columns: Sequence[pa.ChunkedArray], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the labels of all columns as numbers: an int64 is one, a string its place in `names`, -1 a missing one."""
    return np.concatenate([_numbers(column, names) for column in columns])


def _numbers(column: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.int64]:
    if pa.types.is_large_string(column.type):
        column = pc.index_in(column, pa.array(names, pa.large_string()))
    numbers: Any = pc.fill_null(column.cast(pa.int64()), -1)
    return numbers.to_numpy().astype(np.int64)
