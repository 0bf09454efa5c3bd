"""Rewriting metadata: only damaged files, and only if the ledger confirms their content."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.errors import IdentityMismatch
from cache.layout import SplitShape
from cache.restore import damaged_metadata, restore_store
from cache.writer import create_split, create_store
from tests.support.tiny_store import contents, dataset_of, labels_of, thumbs_of

TEACHER = {"architecture": "planted", "dim": 8}
SHAPE = SplitShape(rows=100, views=1, dim=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cache.zarr"
    create_store(path, TEACHER)
    made: dict[str, Any] = {"dataset": dataset_of(SHAPE), "rows": 100, "views": 1, "dim": 8}
    create_split(path, "train", **made, labels=labels_of(SHAPE), thumbs=thumbs_of(SHAPE))
    return path


def damaged(path: Path, **changes: object) -> set[str]:
    return {*damaged_metadata(path, "train", [dataset_of(SHAPE) | changes], 100)}


def test_only_what_is_damaged_is_named(path: Path) -> None:
    assert damaged(path) == set()
    (path / "train/zarr.json").unlink()
    (path / "train/norm/zarr.json").write_text("{}")
    assert damaged(path) == {"zarr.json", "norm/zarr.json"}


def test_metadata_with_the_same_content_but_other_spacing_is_intact(path: Path) -> None:
    file = path / "train/norm/zarr.json"
    file.write_text(" ".join(file.read_text().split()))
    assert damaged(path) == set()


def test_nothing_is_written_for_another_dataset_or_without_a_ledger(path: Path) -> None:
    refused = pytest.raises(IdentityMismatch, match="which is not in its ledger")
    assert damaged(path, images="2" * 64) == set()  # readable: comparing identities is more informative
    (path / "train/norm/zarr.json").unlink()
    with refused:
        damaged(path, images="2" * 64)
    assert damaged(path) == {"norm/zarr.json"}
    shutil.rmtree(path / "train/row_checksum")
    with refused:
        damaged(path)


def test_the_stores_own_metadata_is_restored_only_for_its_teacher(path: Path) -> None:
    whole = contents(path)
    (path / "zarr.json").unlink()
    assert not restore_store(path, TEACHER | {"dim": 16}, {})
    assert not (path / "zarr.json").exists()
    assert restore_store(path, TEACHER, {})
    assert contents(path) == whole


def test_a_split_that_cannot_be_read_is_skipped(path: Path) -> None:
    shutil.copytree(path / "train", path / "another")
    (path / "another/zarr.json").write_text("{")
    (path / "zarr.json").unlink()
    assert restore_store(path, TEACHER, {})
