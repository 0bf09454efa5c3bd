"""What the zarr.json files of a store say, read with zarr and checked."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata

from cache.columns import Column, chunk_columns, row_columns
from cache.errors import CorruptStore, FormatMismatch, NotAStore, StoreError
from cache.identity import identity_id
from cache.layout import ENCODINGS, FLOAT16, FORMAT, SplitShape
from cache.zarr_json import ARCHIVE, ATTRIBUTE, CROP_SCALE, serializer, split_metadata


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """Read an optional array of a split with zarr, which checks its checksums. Raises CorruptStore if it is damaged."""
    try:
        array = zarr.open_array(folder / name, mode="r", zarr_format=3)
        return np.asarray(array[...])
    except Exception as error:  # of damaged arrays zarr may raise anything
        raise CorruptStore(f"{folder / name} is damaged: delete it and make it again") from error


def archive_of(path: Path) -> dict[str, Any] | None:
    """Return how the arrays of an archive are compressed; None for a store. Raises as `read_store`."""
    found: dict[str, Any] | None = _attributes(path).get(ARCHIVE)
    return found


def read_store(path: Path, *, archive: bool = False) -> dict[str, Any]:
    """Return the store's `format`, `teacher` (identity), `id`, and `origin` if it was recorded.

    archive: the store may be an archive.

    Raises:
        NotAStore: there is no store at `path`.
        FormatMismatch: the store has another format, or is an archive.
        CorruptStore: the id does not match the teacher's identity.
    """
    attributes = _attributes(path)
    if ARCHIVE in attributes and not archive:
        raise FormatMismatch(
            f"{path} is an archive, which is only read as a whole; make a store of it with "
            f"`python cli.py cache convert {path} OUT.zarr --as fp16`"
        )
    if attributes.get("format") != FORMAT:
        raise FormatMismatch(
            f"{path} is a store of format {attributes.get('format')}, but this version reads format {FORMAT}; "
            "use the version that wrote it, or write it again"
        )
    teacher = attributes.get("teacher")
    if not isinstance(teacher, dict) or attributes.get("id") != identity_id(teacher):
        raise CorruptStore(
            f"the attributes of {path} were edited: its id does not match its teacher; {rewrite_hint(path)}"
        )
    return attributes


def read_split(path: Path, split: str) -> tuple[SplitShape, dict[str, Any]]:
    """Return a split's shape and dataset identity, after checking that its arrays are laid out as in format 1.

    Raises:
        NotAStore: there is no such split.
        FormatMismatch: a size is missing, or an array has another shape, dtype, chunk shape or codecs.
    """
    shape, dataset, _ = read_split_attributes(path, split)
    folder = path / split
    group = zarr.open_group(folder, mode="r", zarr_format=3)
    for column in (*chunk_columns(shape), *row_columns(shape)):
        _check_array(folder, group, column)
    return shape, dataset


def read_split_attributes(
    path: Path, split: str
) -> tuple[SplitShape, dict[str, Any], tuple[float, float] | None]:
    """Return a split's shape, its dataset's identity, and the crop scale of its random views, None without any.

    Raises as `read_split`, but for its arrays, which are not looked at.
    """
    folder = path / check_split_name(split)
    attributes = _attributes(folder)
    sizes: dict[str, Any] = {name: attributes.get(name) for name in ("rows", "views", "dim")}
    sound = all(type(size) is int and size > 0 for size in sizes.values())
    if not sound or not isinstance(attributes.get("dataset"), dict):
        raise FormatMismatch(
            f"the attributes of {folder} lack a dataset, or rows, views and dim above 0; {repair_hint(path)}"
        )
    encoding = attributes.get("encoding", FLOAT16)
    if encoding not in ENCODINGS:
        raise FormatMismatch(
            f"the embeddings of {folder} are encoded as {encoding!r}, which this version cannot read; use the version "
            "that wrote it"
        )
    scale = attributes.get(CROP_SCALE)
    return SplitShape(**sizes, encoding=encoding), attributes["dataset"], tuple(scale) if scale else None


def check_split_metadata(path: Path, split: str, shape: SplitShape, dataset: Mapping[str, Any]) -> None:
    """Raise FormatMismatch unless the metadata of every array is as when the split was created.

    `read_split` checks what reading depends on; this also checks fill values, chunk file names and the ledger's arrays.
    """
    crop_scale = read_split_attributes(path, split)[2]
    for name, data in split_metadata(shape, dataset, crop_scale).items():
        folder = path / split / name.removesuffix("zarr.json").rstrip("/")
        if not folder.is_dir() or folder == path / split:  # there may be no ledger
            continue
        expected, found = parsed(data), parsed(folder / "zarr.json")
        if found != expected:
            raise FormatMismatch(
                f"{folder}/zarr.json is not what the split was created with (expected {expected}, found {found}); "
                f"{repair_hint(path)}"
            )


def parsed(file: Path | bytes) -> dict[str, Any] | str:
    """Return the content of a zarr.json in a comparable form, or a description of why it cannot be read."""
    try:
        whole = json.loads(file if isinstance(file, bytes) else file.read_bytes())
        kind = ArrayV3Metadata if whole["node_type"] == "array" else GroupMetadata
        return dict(kind.from_dict(whole).to_dict())
    except Exception as error:  # of damaged metadata zarr may raise anything
        return f"unreadable: {error}"


def repair_hint(path: Path) -> str:
    """Return what to do when a split of the store at `path` has a lost or damaged zarr.json."""
    return f"restore it with `python cli.py cache repair {path} --dataset DATASET`"


def rewrite_hint(path: Path) -> str:
    """Return what to do when the store's own zarr.json is lost or damaged."""
    return f"delete {path}/zarr.json and run the command that wrote the store again, which puts it back"


def split_names(path: Path) -> tuple[str, ...]:
    """Return the names of a store's splits, sorted."""
    return tuple(sorted(file.parent.name for file in path.glob("[!.]*/zarr.json")))


def check_split_name(split: str) -> str:
    """Return the name if it can be a split's folder. Raises StoreError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", split):
        raise StoreError(f"{split!r} cannot name a split; use letters, digits, '.', '_' and '-'")
    return split


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        if group.metadata.zarr_format != 3:  # zarr does not check this field
            raise ValueError("not of Zarr v3")
        attributes: Any = group.attrs[ATTRIBUTE]
        return dict(attributes)
    except Exception as error:  # of damaged metadata zarr may raise anything
        if (folder / "embedding").is_dir():
            raise CorruptStore(f"{folder}/zarr.json is damaged; {repair_hint(folder.parent)}") from error
        if any(folder.glob("*/embedding")):
            raise CorruptStore(f"{folder}/zarr.json is lost or damaged; {rewrite_hint(folder)}") from error
        if not folder.exists():
            raise NotAStore(f"{folder} does not exist; check the path") from error
        raise NotAStore(
            f"{folder} is not part of a store: expected a Zarr v3 group with the attribute '{ATTRIBUTE}'; "
            "check the path"
        ) from error


def _first_views(shape: tuple[int, ...], column: Column) -> tuple[int, ...]:
    """Return the shape of an array, but not more views than the column has."""
    return shape if column.views is None or not shape else (min(shape[0], column.views), *shape[1:])


def _check_array(folder: Path, group: zarr.Group, column: Column) -> None:
    try:
        array = group.get(column.name)
    except Exception:  # of damaged metadata zarr may raise anything
        array = None
    expected = (column.shape, column.chunk_shape, column.dtype, serializer(column), (Crc32cCodec(),), ())
    found = isinstance(array, zarr.Array) and (
        # arrays grow before the split that is to have more views does
        _first_views(array.shape, column),
        array.chunks,
        array.dtype,
        array.serializer,
        array.compressors,
        array.filters,
    )
    if found != expected:
        raise FormatMismatch(
            f"the array '{column.name}' of {folder} is not laid out as in format {FORMAT} "
            f"(expected {expected}, found {found or 'no array'}); if it was damaged, {repair_hint(folder.parent)}"
        )
