"""Lost and damaged zarr.json files written anew.

What they must say follows from the teacher and the dataset that somebody names, and the marks in the ledgers, kept with
every chunk, bear out that these are the right ones. Without that nothing is touched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.columns import decode
from cache.durable import write_file
from cache.errors import IdentityMismatch, StoreError
from cache.identity import identity_id
from cache.layout import ChunkKey, SplitShape
from cache.ledger import mark, row_ledger
from cache.metadata import read_split, read_store, said, split_metadata, split_names, store_metadata


def restore_store(path: Path, teacher: Mapping[str, Any], origin: Mapping[str, str]) -> bool:
    """Write the zarr.json of a store that has lost it, if a split in it is of this teacher; whether it was written.

    Raises StoreError when the system refuses to write.
    """
    known = any(is_teachers(path, name, identity_id(teacher)) for name in split_names(path))
    if known:
        for name, data in store_metadata(teacher, origin).items():
            write_file(path / name, data)
    return known


def damaged_metadata(path: Path, split: str, dataset: Mapping[str, Any], rows: int) -> dict[str, bytes]:
    """The zarr.json files of a split (by name in its folder) that do not say what they must, with what they must say.

    dataset, rows: the identity and the rows that the split is thought to be of; there may be no such split. What can
    be read is not judged where the ledger does not bear that out, or the teacher's identity has no `dim`.
    Raises IdentityMismatch for what then cannot be read, and as `read_store` does.
    """
    store = read_store(path)
    views = {folder.name for folder in (path / split / "embedding" / "c").glob("*")}
    shape = SplitShape(rows=rows, views=1, dim=store["teacher"].get("dim", 1))
    known = (
        "dim" in store["teacher"] and not views - {"0"} and is_of(path, split, shape, dataset, store["id"])
    )
    if not known:
        require_readable(path, split)
        return {}
    expected = split_metadata(shape, dataset)
    return {name: data for name, data in expected.items() if said(path / split / name) != said(data)}


def is_teachers(path: Path, split: str, store_id: str) -> bool:
    """Whether a split can be read and belongs to a store with this id."""
    try:
        return is_of(path, split, *read_split(path, split), store_id)
    except StoreError:
        return False


def require_readable(path: Path, split: str) -> None:
    """Raise IdentityMismatch if a split is there and its metadata cannot be read."""
    try:
        if (path / split).is_dir():
            read_split(path, split)
    except StoreError as error:
        raise IdentityMismatch(
            f"{path / split} cannot be described anew from this dataset, of which its ledger knows nothing; give the "
            "one that the store was made of, or write the store again"
        ) from error


def is_of(path: Path, split: str, shape: SplitShape, dataset: Mapping[str, Any], store_id: str) -> bool:
    """Whether a chunk of a split is marked as one of this dataset and this store."""
    ledger = row_ledger(shape)
    for index in range(shape.chunks):
        key = ChunkKey(0, index)
        try:
            *_, marked = decode(ledger, (path / split / ledger.file_name(key)).read_bytes())[0].tolist()
        except (OSError, ValueError, StoreError):  # lost or damaged itself
            continue
        if marked == mark(store_id, split, dataset, key):
            return True
    return False
