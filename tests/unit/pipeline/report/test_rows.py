"""Sampled rows, unit-length embeddings, and nearest neighbours by blocks."""

from pathlib import Path

import numpy as np
import pytest

from cache.errors import IdentityMismatch
from cache.layout import SplitShape
from cache.reader import open_store
from pipeline.evaluate import fidelity
from pipeline.evaluate.features import unit_rows
from pipeline.images.dataset import open_dataset
from pipeline.report import rows as samples
from pipeline.report.rows import nearest_rows, open_split, sample_rows
from tests.support import tiny_store

SHAPE = SplitShape(rows=500, views=1, dim=8)


def test_neighbours_by_blocks_are_those_of_one_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = tiny_store.written(tmp_path / "store.zarr", SHAPE)
    query = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    rows = split.eligible()
    # The naive search, in float64; rows 3 and 5 of the store are not eligible.
    scores = query.astype(np.float64) @ unit_rows(split, rows).astype(np.float64).T
    expected = rows[np.argsort(-scores, axis=1)[:, :7]]
    for block in (64, 500):
        monkeypatch.setattr(fidelity, "BLOCK_ROWS", block)
        assert (nearest_rows(split, query, 7) == expected).all()
    assert nearest_rows(split, query, 1000).shape == (6, len(rows)), "no more than there are"


def test_of_equally_near_rows_the_lowest_come_first_in_any_number_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = tiny_store.written(tmp_path / "store.zarr", SHAPE)
    monkeypatch.setattr(samples, "unit_rows", lambda split, rows: np.ones((len(rows), 8), np.float32))
    for block in (64, 500):
        monkeypatch.setattr(fidelity, "BLOCK_ROWS", block)
        found = nearest_rows(split, np.ones((3, 8), np.float32), 70)
        assert (found == split.eligible()[:70]).all()


def test_rows_are_of_unit_length_eligible_and_the_seeds(tmp_path: Path) -> None:
    split = tiny_store.written(tmp_path / "store.zarr", SHAPE)
    rows = sample_rows(split, 100, seed=1)
    assert len(rows) == 100
    assert (rows == np.unique(rows)).all()
    assert not {3, 5} & set(sample_rows(split, 1000, seed=0).tolist())
    assert (rows == sample_rows(split, 100, seed=1)).all()
    assert (rows != sample_rows(split, 100, seed=2)).any()
    # float32 of 8 components: a few units in the last place
    np.testing.assert_allclose(np.linalg.norm(unit_rows(split, rows), axis=1), 1, atol=1e-6)


def test_a_store_of_other_images_is_refused(cached: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    assert open_split(open_store(cached), dataset.splits["val"]).name == "val"
    object.__setattr__(dataset.splits["val"], "identity", {"images": "other"})
    with pytest.raises(IdentityMismatch, match="another dataset"):
        open_split(open_store(cached), dataset.splits["val"])
