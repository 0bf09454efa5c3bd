"""The zarr.json files of a store as they are written, made with zarr: identities, shapes and array layout."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from cache.columns import Column, chunk_columns, row_columns
from cache.identity import identity_id
from cache.layout import FLOAT16, FORMAT, SplitShape
from cache.ledger import chunk_ledger, row_ledger

ATTRIBUTE = "anchorage"
ARCHIVE = "archive"
CROP_SCALE = "crop_scale"


def store_metadata(teacher: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files (relative name to bytes) of a store without splits."""
    attributes = {"format": FORMAT, "teacher": dict(teacher), "id": identity_id(teacher)}
    return _group_files(attributes | ({"origin": dict(origin)} if origin else {}))


def split_metadata(
    shape: SplitShape,
    dataset: Mapping[str, Any],
    crop_scale: Sequence[float] | None = None,
    compressors: Sequence[Any] = (Crc32cCodec(),),
) -> dict[str, bytes]:
    """Return the files (relative name to bytes) of a split without chunks. crop_scale: of its random views.

    compressors: codecs of the arrays, in an archive other ones than in a store.
    """
    sizes: dict[str, Any] = {"rows": shape.rows, "views": shape.views, "dim": shape.dim}
    sizes |= {"encoding": shape.encoding} if shape.encoding != FLOAT16 else {}
    of_views = {CROP_SCALE: list(crop_scale)} if crop_scale else {}
    columns = [*chunk_columns(shape), *row_columns(shape), chunk_ledger(shape), row_ledger(shape)]
    # the crop scale stands twice, so that one lost file can be written again
    attributes = {"dataset": dict(dataset), **sizes, **of_views}
    return _group_files(attributes, columns, {"crop": of_views}, compressors)


def array_metadata(column: Column) -> dict[str, bytes]:
    """Return the file (relative name to bytes) of an array that lies beside those of a split."""
    return {"zarr.json": _group_files({}, [column])[f"{column.name}/zarr.json"]}


def archive_metadata(
    teacher: Mapping[str, Any], origin: Mapping[str, str], archive: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return the files of an archive without splits. archive: how its arrays are compressed."""
    attributes = {
        "format": FORMAT,
        "teacher": dict(teacher),
        "id": identity_id(teacher),
        "origin": dict(origin),
    }
    return _group_files(attributes | {ARCHIVE: dict(archive)})


def _group_files(
    attributes: dict[str, Any],
    columns: Iterable[Column] = (),
    of_arrays: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    compressors: Sequence[Any] = (Crc32cCodec(),),
) -> dict[str, bytes]:
    files: dict[str, Buffer] = {}
    group = zarr.create_group(store=MemoryStore(files), attributes={ATTRIBUTE: attributes})
    for column in columns:
        group.create_array(
            column.name,
            shape=column.shape,
            chunks=column.chunk_shape,
            dtype=column.dtype,
            fill_value=column.fill,
            serializer=serializer(column),
            compressors=[*compressors],
            attributes=of_arrays.get(column.name, {}),
        )
    return {name: buffer.to_bytes() for name, buffer in files.items()}


def serializer(column: Column) -> BytesCodec:
    return BytesCodec(endian="little" if column.dtype.itemsize > 1 else None)
