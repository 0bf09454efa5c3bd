"""Labelled features are loaded from stores, without unusable rows."""

from pathlib import Path

import numpy as np
import pytest

from cache.errors import IncompleteStore, NotAStore
from cache.layout import ChunkKey, SplitShape, Status
from cache.reader import Store, open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.errors import PipelineError
from pipeline.evaluate.features import load_features

DIM = 1 << 18  # 32 rows a chunk
ROWS = 40


def written_store(
    path: Path, *, features: np.ndarray, labels: np.ndarray, unreadable: tuple[int, ...] = (), chunks: int = 2
) -> Store:
    create_store(path, {"architecture": "planted"})
    dataset = {"split": "train", "rows": ROWS, "classes": ["a", "b", "c"], "images": "0"}
    thumbs = np.zeros(ROWS, np.uint64)
    create_split(path, "train", dataset=dataset, rows=ROWS, views=1, dim=DIM, labels=labels, thumbs=thumbs)
    embedding, norm, status = normalize(features)
    status[list(unreadable)] = Status.UNREADABLE
    for index in range(chunks):
        rows = slice(32 * index, min(32 * (index + 1), ROWS))
        crop = np.zeros((rows.stop - rows.start, 5), np.float32)
        chunk = ChunkRows(embedding=embedding[rows], norm=norm[rows], crop=crop, status=status[rows])
        write_chunk(path, "train", ChunkKey(0, index), chunk)
    return open_store(path)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Row r points along axes r and r + 1, so that a row is known by its place."""
    assert SplitShape(rows=ROWS, views=1, dim=DIM).chunk_rows == 32
    features = np.zeros((ROWS, DIM), np.float32)
    features[np.arange(ROWS), np.arange(ROWS)] = 3
    features[np.arange(ROWS), np.arange(ROWS) + 1] = 1
    return features


def test_only_usable_labelled_rows_come_in_row_order_and_of_unit_length(
    tmp_path: Path, features: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluate.features.BLOCK_ROWS", 7)
    labels = np.arange(ROWS) % 4 - 1  # every fourth row has none
    dead = features.copy()
    dead[34] = 0
    found = load_features(
        written_store(tmp_path / "s.zarr", features=dead, labels=labels, unreadable=(5,)), "train"
    )
    rows = [row for row in range(ROWS) if row % 4 != 0 and row not in (5, 34)]
    assert found.embedding.argmax(axis=1).tolist() == rows
    assert found.label.tolist() == labels[rows].tolist()
    assert found.names == ("a", "b", "c")
    assert (found.classes, found.embedding.dtype, found.label.dtype) == (3, np.float32, np.int64)
    # float16 alone would leave lengths off by up to 5e-4
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-6)
    # the direction is still float16's: 11 bits
    np.testing.assert_allclose(found.embedding[:, rows].max(axis=1), 3 / np.sqrt(10), rtol=2**-11)


def test_a_split_without_labels_is_refused(tmp_path: Path, features: np.ndarray) -> None:
    store = written_store(tmp_path / "s.zarr", features=features, labels=np.full(ROWS, -1))
    with pytest.raises(PipelineError, match=r"split 'train' of .*s\.zarr has no labels"):
        load_features(store, "train")


def test_a_split_of_which_no_labelled_row_is_usable_is_refused(tmp_path: Path, features: np.ndarray) -> None:
    labels = np.full(ROWS, -1)
    labels[:2] = 0
    store = written_store(tmp_path / "s.zarr", features=features, labels=labels, unreadable=(0, 1))
    with pytest.raises(PipelineError, match="none of the 2 labelled rows"):
        load_features(store, "train")


def test_an_incomplete_or_unknown_split_is_refused(tmp_path: Path, features: np.ndarray) -> None:
    store = written_store(tmp_path / "s.zarr", features=features, labels=np.zeros(ROWS, np.int64), chunks=1)
    with pytest.raises(IncompleteStore):
        load_features(store, "train")
    with pytest.raises(NotAStore, match="no split 'test'"):
        load_features(store, "test")
