"""Rewriting lost or damaged zarr.json files.

Their content follows from the teacher and the dataset, which the caller names. A mark in the ledger must confirm that
these are the right ones; otherwise nothing is written.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cache.columns import decode
from cache.durable import write_file
from cache.errors import IdentityMismatch, StoreError
from cache.identity import identity_id
from cache.layout import ChunkKey, SplitShape, encoding_of
from cache.ledger import mark, row_ledger
from cache.metadata import parsed, read_split, read_split_attributes, read_store, split_names
from cache.zarr_json import CROP_SCALE, split_metadata, store_metadata


def restore_store(path: Path, teacher: Mapping[str, Any], origin: Mapping[str, str]) -> bool:
    """Rewrite a store's lost zarr.json if one of its splits belongs to this teacher; returns whether it was rewritten.

    Raises StoreError when the system refuses to write.
    """
    known = any(readable_and_marked(path, name, identity_id(teacher)) for name in split_names(path))
    if known:
        for name, data in store_metadata(teacher, origin).items():
            write_file(path / name, data)
    return known


def damaged_metadata(
    path: Path, split: str, datasets: Iterable[Mapping[str, Any]], rows: int
) -> dict[str, bytes]:
    """Return the correct content of each zarr.json of a split that is lost or damaged, by name in the split's folder.

    datasets, rows: possible identities and the rows of the split, which need not exist. If the ledger confirms none, or
    the teacher's identity has no `dim`, readable files count as correct.
    Raises IdentityMismatch if there are then unreadable files; otherwise raises as `read_store` does.
    """
    store = read_store(path)
    views, crop_scale = known_views(path, split)
    teacher = store["teacher"]
    shape = SplitShape(rows=rows, views=views or 1, dim=teacher.get("dim", 1), encoding=encoding_of(teacher))
    can_be_known = "dim" in teacher and views is not None
    marked = [each for each in datasets if can_be_known and is_marked(path, split, shape, each, store["id"])]
    if not marked:
        require_readable(path, split)
        return {}
    expected = split_metadata(shape, marked[0], crop_scale)
    return {name: data for name, data in expected.items() if parsed(path / split / name) != parsed(data)}


def known_views(path: Path, split: str) -> tuple[int | None, tuple[float, float] | None]:
    """Return a split's number of views and their crop scale; the number is None if it is not known.

    They are in the split's own file, and in that of its array `crop`.
    """
    try:
        shape, _, crop_scale = read_split_attributes(path, split)
        return shape.views, crop_scale
    except StoreError:
        crop = parsed(path / split / "crop" / "zarr.json")
    if isinstance(crop, dict) and "shape" in crop:
        scale = crop.get("attributes", {}).get(CROP_SCALE)
        return crop["shape"][0], tuple(scale) if scale else None
    random = {folder.name for folder in (path / split / "embedding" / "c").glob("*")} - {"0"}
    return (None if random else 1), None


def readable_and_marked(path: Path, split: str, store_id: str) -> bool:
    """Whether a split can be read and its ledger marks it as part of the store with this id."""
    try:
        return is_marked(path, split, *read_split(path, split), store_id)
    except StoreError:
        return False


def require_readable(path: Path, split: str) -> None:
    """Raise IdentityMismatch if the split exists but its metadata cannot be read."""
    try:
        if (path / split).is_dir():
            read_split(path, split)
    except StoreError as error:
        raise IdentityMismatch(
            f"the metadata of {path / split} cannot be restored from this dataset, which is not in its ledger; "
            "give the dataset that the store was made from, or write the store again"
        ) from error


def is_marked(path: Path, split: str, shape: SplitShape, dataset: Mapping[str, Any], store_id: str) -> bool:
    """Whether the ledger marks at least one chunk of a split as part of this dataset and this store."""
    ledger = row_ledger(shape)
    for index in range(shape.chunks):
        key = ChunkKey(0, index)
        try:
            *_, marked = decode(ledger, (path / split / ledger.file_name(key)).read_bytes())[0].tolist()
        except (OSError, ValueError, StoreError):  # the ledger's own file is lost or damaged
            continue
        if marked == mark(store_id, split, dataset, key):
            return True
    return False
