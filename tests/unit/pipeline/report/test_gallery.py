"""Clusters and nearest neighbours of planted classes, and thumbnails of their images."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset
from pipeline.report.gallery import (
    IMAGES,
    NEIGHBOURS,
    QUERIES,
    SIDE,
    clustering,
    data_uri,
    most_frequent,
    neighbours,
    thumbnail,
)
from tests.support.report_targets import PLAIN, dataset_of, write_store


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset_of(tmp_path_factory.mktemp("gallery"))


def pixels_of(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_planted_clusters_are_the_classes(dataset: Dataset, tmp_path: Path) -> None:
    found = clustering("s", open_store(write_store(tmp_path / "s.zarr", dataset)), dataset, seed=0)
    assert (found.k, found.rows) == (4, 120)
    assert sorted(cluster.label for cluster in found.clusters) == sorted(PLAIN)
    for cluster in found.clusters:
        assert (cluster.share, cluster.size, len(cluster.images)) == (1.0, 30, IMAGES)
        assert {one.label for one in cluster.images} == {cluster.label}
        assert len({one.name for one in cluster.images}) == IMAGES


def test_planted_neighbours_are_of_the_querys_class_and_noise_is_not(
    dataset: Dataset, tmp_path: Path
) -> None:
    stores = {
        "planted": open_store(write_store(tmp_path / "s.zarr", dataset)),
        "noise": open_store(write_store(tmp_path / "n.zarr", dataset, noise=1000.0)),
    }
    found = neighbours(stores, dataset, seed=0)
    assert len(found) == QUERIES
    assert len({each.query.name for each in found}) == QUERIES
    right = {
        name: [one.label == each.query.label for each in found for one in each.found[name]] for name in stores
    }
    assert all(right["planted"])
    assert len(right["noise"]) == QUERIES * NEIGHBOURS
    # Chance is a quarter of 40; more than 22 has a probability of 2e-5.
    assert sum(right["noise"]) <= 22


def test_the_shares_of_a_cluster_count_its_labelled_images() -> None:
    assert most_frequent(np.array([2, 2, 0, -1, -1, -1]), ["a", "b", "c"]) == ("c", 2 / 3)
    assert most_frequent(np.array([-1, -1]), ["a"]) == ("", 0.0)


def test_a_thumbnail_is_the_rows_image_square_and_small(dataset: Dataset) -> None:
    split = dataset.splits["train"]
    for row in (0, 60, 119):
        one = thumbnail(split, row)
        assert one.label == PLAIN[split.labels[row]]
        assert one.name == split.names[row]
        found = pixels_of(one.uri).astype(float)
        assert found.shape == (24, 24, 3)
        # The class's colour is on its channel; JPEG of quality 88 keeps a mean within a few levels.
        kind = int(split.labels[row])
        assert found[..., kind % 3].mean() == pytest.approx(60 + 30 * kind + 29.5, abs=5)
    assert pixels_of(data_uri(Image.new("RGB", (500, 300)))).shape == (SIDE, SIDE, 3)


def test_moved_images_are_reported_as_gone(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, train=3, val=2)
    dataset.data.rename(tmp_path / "away")
    with pytest.raises(WrongUse, match="are no longer there"):
        thumbnail(dataset.splits["train"], 0)


def test_an_image_that_was_changed_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, train=3, val=2)
    name = dataset.splits["train"].names[0]
    Image.new("RGB", (8, 8)).save(dataset.data / "train" / name)
    with pytest.raises(PipelineError, match="has changed"):
        thumbnail(dataset.splits["train"], 0)
