"""Confusion matrices of planted classes and of noise."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.reader import open_store
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.report.confusion import confusion, matrix_image, worst_pairs
from tests.support.report_targets import write_store


@pytest.fixture(scope="module")
def dataset(packed: Path) -> Dataset:
    return open_dataset(packed)


def test_planted_classes_are_never_confused(dataset: Dataset, tmp_path: Path) -> None:
    found = confusion("s", open_store(write_store(tmp_path / "s.zarr", dataset)), dataset, 0)
    assert found.classes == dataset.splits["val"].classes
    assert found.queries == 40
    assert np.array_equal(found.shares, np.eye(4))
    assert (found.pairs, found.image) == ([], "")


def test_noise_is_confused_at_chance(dataset: Dataset, tmp_path: Path) -> None:
    store = open_store(write_store(tmp_path / "s.zarr", dataset, noise=1000.0))
    found = confusion("s", store, dataset, 0)
    np.testing.assert_allclose(np.sum(found.shares, axis=1), 1)
    # 40 images at chance 1/4: a std of 0.07
    assert np.mean(np.diag(found.shares)) < 0.5
    assert len(found.pairs) > 5


def test_the_worst_pairs_by_hand() -> None:
    shares = np.array([[0.5, 0.4, 0.1], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]])
    assert worst_pairs(shares, ("a", "b", "c")) == [("a", "b", 0.4), ("c", "a", 0.2), ("a", "c", 0.1)]


def test_a_big_matrix_is_a_pixel_a_cell() -> None:
    shares = np.eye(25)
    shares[3, 7] = 0.25
    uri = matrix_image(shares)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert pixels.shape == (25, 25, 4)
    assert np.array_equal(pixels[..., 3] == 255, np.eye(25, dtype=bool))
    assert pixels[3, 7, 3] == 128, "the root of the share, so that rare confusions can be seen"
