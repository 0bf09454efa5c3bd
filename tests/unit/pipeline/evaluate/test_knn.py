"""k-NN accuracy equals scikit-learn's."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.knn import evaluate, majority
from tests.support.planted import planted, shuffled


@pytest.mark.parametrize("classes", [2, 7, 40])
def test_equals_scikit_learn(classes: int) -> None:
    # Noise so large that most of the 20 votes are split, and ties are common.
    train, val = planted(600, classes, 48, 1.0, 0), planted(300, classes, 48, 1.0, 1)
    found = dict(evaluate(train, val))
    for k in (1, 20):
        oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        oracle.fit(train.embedding, train.label)
        assert found[f"nn{k}"] == oracle.score(val.embedding, val.label)
    assert list(found) == ["nn1", "nn20"]


def test_planted_classes_are_all_found() -> None:
    found = dict(evaluate(planted(400, 10, 32, 0.05, 0), planted(100, 10, 32, 0.05, 1)))
    assert found == {"nn1": 1.0, "nn20": 1.0}


def test_shuffled_labels_are_near_chance() -> None:
    train, val = planted(2000, 10, 32, 0.05, 0), planted(1000, 10, 32, 0.05, 1)
    for accuracy in dict(evaluate(shuffled(train, 2), shuffled(val, 3))).values():
        # 0.1 of 1,000 rows has a standard deviation of 0.0095; rows of one class share neighbours.
        assert 0.05 < accuracy < 0.15


def test_a_small_train_set_votes_as_a_whole() -> None:
    train = LabeledFeatures(np.eye(4, dtype=np.float32)[:3], np.array([1, 0, 0]), 2)
    val = LabeledFeatures(np.eye(4, dtype=np.float32)[:2], np.array([1, 1]), 2)
    assert dict(evaluate(train, val)) == {"nn1": 0.5, "nn20": 0.0}


def test_of_equally_near_images_the_first_is_the_nearest_whatever_k_is() -> None:
    # three images stored twice, with other labels: the first of each pair decides 1-NN
    train = LabeledFeatures(np.tile(np.eye(4, dtype=np.float32)[:3], (9, 1)), np.arange(27) // 3 % 3, 3)
    val = LabeledFeatures(np.eye(4, dtype=np.float32)[:3], np.zeros(3, np.int64), 3)
    assert dict(evaluate(train, val))["nn1"] == 1.0


def test_a_tied_vote_goes_to_the_smallest_label() -> None:
    labels = np.array([[5, 2, 2, 5, 9], [3, 1, 2, 0, 9], [7, 7, 1, 1, 7]])
    np.testing.assert_array_equal(majority(labels), [2, 0, 7])


def test_sides_that_do_not_belong_together_are_refused() -> None:
    train = planted(40, 4, 16, 0.1, 0)
    with pytest.raises(PipelineError, match=r"16 dimensions .* 8"):
        dict(evaluate(train, planted(40, 4, 8, 0.1, 1)))
    with pytest.raises(PipelineError, match="4 classes and the val split 5"):
        dict(evaluate(train, replace(train, classes=5)))
