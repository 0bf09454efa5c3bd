"""Writing a store: its metadata once, then chunk by chunk, by any number of processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.columns import Column, chunk_columns, encode, row_columns
from cache.durable import place_folder, remove_leftovers_beside, remove_leftovers_within, write_file
from cache.errors import IdentityMismatch
from cache.identity import identity_difference
from cache.int8 import quantized
from cache.layout import FLOAT16, ChunkKey, SplitShape, Status
from cache.ledger import ROW_LEDGER, chunk_ledger, has_ledger, ledger_entry, mark, row_ledger
from cache.metadata import check_split_name, read_split, read_split_attributes, read_store
from cache.restore import restore_store
from cache.zarr_json import array_metadata, split_metadata, store_metadata


@dataclass(frozen=True, kw_only=True)
class ChunkRows:
    """The content of the n rows of a chunk.

    embedding: (n, D) float16, L2-normalised, NaN where the status is not OK. norm: (n,) float32, L2 norm before
    normalisation. crop: (n, 5) float32, top, left, height and width as fractions of the upright original, and 1 if
    flipped. status: (n,) uint8.
    """

    embedding: NDArray[np.float16]
    norm: NDArray[np.float32]
    crop: NDArray[np.float32]
    status: NDArray[np.uint8]

    def __post_init__(self) -> None:
        rows = len(self.status)
        assert self.embedding.shape[:-1] == (rows,), self.embedding.shape
        assert self.norm.shape == (rows,), self.norm.shape
        assert self.crop.shape == (rows, 5), self.crop.shape
        assert not (self.status == Status.ABSENT).any(), "a written row cannot be absent"
        usable = self.embedding[self.status == Status.OK]
        assert np.isfinite(usable).all(), "a row with status OK is not finite"


def create_store(
    path: Path, teacher: Mapping[str, Any], origin: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Create a store for a teacher's embeddings, or check that the one at `path` belongs to this teacher.

    A lost zarr.json is rewritten if the ledger of a split shows that the store belongs to this teacher.
    teacher: its identity. origin: readable names of the teacher, not part of its identity.

    Raises:
        IdentityMismatch: the store at `path` belongs to another teacher.
        NotAStore: `path` holds something else.
        StoreError: the system refused to write.
    """
    path = path.resolve()
    remove_leftovers_beside(path)
    if not (path / "zarr.json").exists() and not restore_store(path, teacher, origin):
        place_folder(path, store_metadata(teacher, origin), staged_beside=path)
    _require_same(f"the store {path}", teacher, read_store(path)["teacher"])


def create_split(
    path: Path,
    split: str,
    *,
    dataset: Mapping[str, Any],
    rows: int,
    views: int,
    dim: int,
    labels: NDArray[np.int64],
    thumbs: NDArray[np.uint64],
    crop_scale: tuple[float, float] | None = None,
    encoding: str = FLOAT16,
) -> None:
    """Create a split with its labels (N,) and thumbs (N,), or check that the one in the store is the same.

    The split appears atomically, with all labels and thumbs, and with every chunk absent. dataset: its identity.
    views: one that has fewer gets more, one that has more keeps them. crop_scale: of random views, if there are any.
    encoding: of the embeddings, float16 or int8.

    Raises:
        IdentityMismatch: the split in the store belongs to another dataset or has another shape, or other random views.
        NotAStore: there is no store at `path`.
        StoreError: the system refused to write, or the name cannot be used.
    """
    path = path.resolve()
    store_id = read_store(path)["id"]
    folder = path / check_split_name(split)
    shape = SplitShape(rows=rows, views=views, dim=dim, encoding=encoding)
    marks = [mark(store_id, split, dataset, ChunkKey(0, index)) for index in range(shape.chunks)]
    files = _row_files(shape, labels, thumbs, marks)
    if not (folder / "zarr.json").exists():
        place_folder(folder, {**split_metadata(shape, dataset, crop_scale), **files}, staged_beside=path)
    found, of_dataset, of_views = read_split_attributes(path, split)
    scale = crop_scale or of_views
    _require_same(
        f"the split '{split}' of {path}",
        _described(shape, dataset, scale),
        _described(found, of_dataset, of_views or scale),
    )
    if views > found.views:
        _add_views(folder, split_metadata(shape, dataset, scale))
    read_split(path, split)
    remove_leftovers_within(folder)
    for name, data in files.items():
        recorded = has_ledger(folder) or not name.startswith(ROW_LEDGER)
        if recorded and not _has_size(folder / name, len(data)):
            write_file(folder / name, data)


def _add_views(folder: Path, metadata: Mapping[str, bytes]) -> None:
    """Rewrite the metadata of a split's folder for more views: the arrays', and last the split's own, which counts."""
    for name in sorted(metadata, key=lambda name: name == "zarr.json"):
        if (folder / name).exists():  # there may be no ledger
            write_file(folder / name, metadata[name])


def absent_chunks(path: Path, split: str) -> list[ChunkKey]:
    """Return the chunks that are still to be written: those with a file that is missing or has the wrong size."""
    shape, _ = read_split(path, split)
    columns = chunk_columns(shape)
    return [
        key
        for key in shape.chunk_keys
        if not all(_has_size(path / split / each.file_name(key), each.file_bytes) for each in columns)
    ]


def write_chunk(path: Path, split: str, key: ChunkKey, rows: ChunkRows) -> None:
    """Write one chunk; the embedding comes last, and its file marks the chunk as present.

    Any number of processes may write different chunks at the same time. An existing chunk is replaced.

    Raises:
        StoreError: the system refused, for example because the disk is full; the chunk stays absent.
    """
    shape, _ = read_split(path, split)
    assert rows.embedding.shape == (len(shape.rows_of(key)), shape.dim), (key, rows.embedding.shape, shape)
    write_columns(path, split, key, _values(rows, shape))


def write_columns(path: Path, split: str, key: ChunkKey, values: Mapping[str, NDArray[Any]]) -> None:
    """Write one chunk as `write_chunk` does. values: the rows of each of its columns, encoded as the split is."""
    shape, dataset = read_split(path, split)
    columns = chunk_columns(shape)
    files = [(column.file_name(key), encode(column, values[column.name])) for column in columns]
    if has_ledger(path / split):
        ledger = chunk_ledger(shape)
        marked = mark(read_store(path)["id"], split, dataset, key)
        files.insert(
            -1, (ledger.file_name(key), encode(ledger, ledger_entry((data for _, data in files), marked)))
        )
    for name, data in files:
        write_file(path / split / name, data)


def write_array(path: Path, split: str, column: Column, rows: NDArray[Any]) -> None:
    """Add an array beside those of a split, atomically, unless it has one of that name. rows: (N, *tail), all of them.

    Raises StoreError when the system refuses.
    """
    files = array_metadata(column)
    for index, start in enumerate(range(0, column.rows, column.chunk_rows)):
        name = column.file_name(ChunkKey(0, index)).removeprefix(f"{column.name}/")
        files[name] = encode(column, rows[start : start + column.chunk_rows])
    path = path.resolve()
    place_folder(path / split / column.name, files, staged_beside=path)


def _values(rows: ChunkRows, shape: SplitShape) -> dict[str, NDArray[Any]]:
    """Return the rows of each column of a chunk, encoded as the split is."""
    values: dict[str, NDArray[Any]] = {"status": rows.status, "norm": rows.norm, "crop": rows.crop}
    if shape.encoding == FLOAT16:
        return values | {"embedding": rows.embedding}
    codes, scale = quantized(rows.embedding)
    return values | {"scale": scale, "embedding": codes}


def normalize(
    features: NDArray[np.float32],
) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.uint8]]:
    """L2-normalize features (n, D); returns embedding (n, D), norm (n,) and status (n,).

    A row whose norm is zero or not finite is DEGENERATE and its embedding is NaN; all others are OK.
    """
    norm = np.linalg.norm(features.astype(np.float64), axis=1)
    with np.errstate(over="ignore"):
        stored_norm = norm.astype(np.float32)
    usable = (stored_norm > 0) & np.isfinite(stored_norm)
    embedding = np.full(features.shape, np.nan, np.float16)
    embedding[usable] = features[usable] / norm[usable, None]
    status = np.where(usable, Status.OK, Status.DEGENERATE).astype(np.uint8)
    return embedding, stored_norm, status


def _row_files(
    shape: SplitShape, labels: NDArray[np.int64], thumbs: NDArray[np.uint64], marks: list[int]
) -> dict[str, bytes]:
    assert labels.shape == thumbs.shape == (shape.rows,), (labels.shape, thumbs.shape, shape)
    files: dict[str, bytes] = {}
    ledger = row_ledger(shape)
    for index, marked in enumerate(marks):
        key = ChunkKey(0, index)
        held = shape.rows_of(key)
        of_chunk = {
            column.file_name(key): encode(column, values[held.start : held.stop])
            for column, values in zip(row_columns(shape), (labels, thumbs), strict=True)
        }
        files |= of_chunk | {ledger.file_name(key): encode(ledger, ledger_entry(of_chunk.values(), marked))}
    return files


def _described(
    shape: SplitShape, dataset: Mapping[str, Any], crop_scale: tuple[float, float] | None
) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "rows": shape.rows,
        "dim": shape.dim,
        "encoding": shape.encoding,
        "crop_scale": crop_scale,
    }


def _require_same(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differences = identity_difference(expected, found)
    if differences:
        raise IdentityMismatch(
            f"{what} was made from something else ({'; '.join(differences)}); "
            "write to another path, or delete what is there"
        )


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False
