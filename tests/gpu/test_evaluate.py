"""The protocols measure on a GPU what they measure on the CPU, but for rounding."""

from pathlib import Path

import pytest
import torch

from cache.reader import open_store
from pipeline.evaluate import cluster_alignment, fewlabel, knn, linear
from pipeline.evaluate.features import LabeledFeatures, load_features
from pipeline.runtime.device import CPU

Features = tuple[LabeledFeatures, LabeledFeatures]


@pytest.fixture(scope="module")
def features(cached: Path) -> Features:
    store = open_store(cached)
    return load_features(store, "train"), load_features(store, "val")


def metrics(features: Features, device: torch.device) -> dict[str, float]:
    found = dict(knn.evaluate(*features, device=device))
    found |= linear.evaluate(*features, device=device)
    found |= fewlabel.evaluate(*features, labels=("1shot", "10pct"), device=device)
    return found | dict(cluster_alignment.evaluate(*features, seeds=2, seed=0, device=device))


def test_accuracies_are_the_cpus(features: Features, device: torch.device) -> None:
    """An image whose two best classes are nearly tied may fall to the other: one of the 40 here."""
    found, expected = metrics(features, device), metrics(features, CPU)
    assert found == pytest.approx(expected, abs=1 / 40 + 1e-9)
    assert expected["nn1"] > 0.5
