"""Planted classes stay together on the map."""

import re
from pathlib import Path

import numpy as np
import pytest

from cache.reader import open_store
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.report.embedding_map import SIDE, EmbeddingMap, dots, embedding_map, most_frequent
from tests.support.report_targets import write_store


@pytest.fixture(scope="module")
def dataset(packed: Path) -> Dataset:
    return open_dataset(packed)


def points(drawn: EmbeddingMap) -> tuple[np.ndarray, np.ndarray]:
    found = [
        (int(x), int(y), kind)
        for kind, (_, path) in enumerate(drawn.classes)
        for x, y in re.findall(r"M(\d+) (\d+)h0", path)
    ]
    return np.array([place[:2] for place in found]), np.array([place[2] for place in found])


def purity(place: np.ndarray, kind: np.ndarray) -> float:
    """The share of points whose nearest other point is of their class."""
    distance = np.linalg.norm(place[:, None] - place[None], axis=2) + np.diag(np.full(len(place), np.inf))
    return float((kind[distance.argmin(axis=1)] == kind).mean())


def test_planted_classes_stay_together_and_noise_does_not(dataset: Dataset, tmp_path: Path) -> None:
    planted, noise = (
        embedding_map(
            "s", open_store(write_store(tmp_path / f"{noise}.zarr", dataset, noise=noise)), dataset, 0
        )
        for noise in (0.05, 1000.0)
    )
    assert [name for name, _ in planted.classes] == [f"class-{kind}" for kind in range(4)]
    place, kind = points(planted)
    assert len(place) == planted.points == 40
    assert place[:, 0].max() == SIDE
    assert place[:, 1].max() == planted.height <= SIDE
    assert purity(place, kind) == 1.0
    # Chance is a quarter, with a std of 0.07 were the points independent.
    assert purity(*points(noise)) < 0.5


def test_it_comes_out_the_same_twice(dataset: Dataset, tmp_path: Path) -> None:
    store = open_store(write_store(tmp_path / "s.zarr", dataset))
    assert embedding_map("s", store, dataset, 3) == embedding_map("s", store, dataset, 3)


def test_too_few_images_are_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.report.embedding_map.POINTS", 4)
    with pytest.raises(PipelineError, match="too few for a map: expected 5"):
        embedding_map("s", open_store(write_store(tmp_path / "s.zarr", dataset)), dataset, 0)


def test_the_most_frequent_classes_get_the_colours() -> None:
    labels = np.concatenate([np.repeat(np.arange(20), np.arange(20)), [-1, -1]])
    assert most_frequent(labels, 20) == list(range(10, 20))
    assert most_frequent(np.array([-1]), 0) == []


def test_dots() -> None:
    assert dots(np.array([[1, 2], [30, 4]])) == "M1 2h0M30 4h0"
