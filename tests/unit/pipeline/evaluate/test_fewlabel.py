"""Few-label evaluation equals scikit-learn's on the same rows, and its draws are class-balanced."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.fewlabel import draw_rows, evaluate, images_per_class, require_valid_labels
from tests.support.planted import planted, shuffled


def test_planted_classes_are_all_found() -> None:
    # no dimension is of noise alone: standardized, it would be as large as the others
    found = dict(evaluate(planted(1000, 10, 10, 0.05, 0), planted(200, 10, 10, 0.05, 1)))
    names = [
        "few1shot",
        "few1shot_top5",
        "few1shot_std",
        "few1pct",
        "few1pct_top5",
        "few10pct",
        "few10pct_top5",
    ]
    assert list(found) == names
    assert found == {name: 0.0 if name.endswith("std") else 1.0 for name in names}


def test_shuffled_labels_are_near_chance() -> None:
    train, val = planted(1000, 10, 32, 0.05, 0), planted(1000, 10, 32, 0.05, 1)
    found = dict(evaluate(shuffled(train, 2), shuffled(val, 3)))
    for name in ("few1shot", "few1pct", "few10pct"):
        # 0.1 of 1,000 rows has a standard deviation of 0.0095; a class's rows are predicted together.
        assert 0.05 < found[name] < 0.15
        assert 0.40 < found[f"{name}_top5"] < 0.60


def test_equals_scikit_learn_on_the_same_rows() -> None:
    # Noise so large that a third or so of the answers are wrong.
    train, val = planted(900, 6, 24, 0.35, 0), planted(600, 6, 24, 0.35, 1)
    found = dict(evaluate(train, val, labels=("1shot", "10pct"), draws=3, seed=4))

    # the paper's linear probe: the variance of the training features plus 1e-5
    mean, variance = train.embedding.mean(axis=0), train.embedding.var(axis=0, ddof=1)

    def standardized(features: LabeledFeatures) -> np.ndarray:
        return (features.embedding - mean) / np.sqrt(variance + 1e-5)

    def accuracy(per_class: int, draw: int) -> float:
        rows = draw_rows(train.label, 6, per_class, (4, draw))
        oracle = LogisticRegression(tol=1e-8, max_iter=10_000)
        oracle.fit(standardized(train)[rows], train.label[rows])
        return oracle.score(standardized(val), val.label)

    shots = [accuracy(1, draw) for draw in range(3)]
    assert max(shots) < 0.95
    assert min(shots) > 0.25
    # One of 600 rows may fall on the other side of a boundary that two solvers found.
    assert found["few1shot"] == pytest.approx(statistics.fmean(shots), abs=1 / 600)
    assert found["few1shot_std"] == pytest.approx(statistics.stdev(shots), abs=1 / 600)
    assert found["few10pct"] == pytest.approx(accuracy(15, 0), abs=1 / 600)


def test_a_draw_has_as_many_rows_of_every_class_and_is_the_seeds_alone() -> None:
    label = np.random.default_rng(0).permutation(np.arange(300) % 7)
    rows = draw_rows(label, 7, 5, (1, 2))
    assert len(set(rows)) == 35
    assert np.bincount(label[rows]).tolist() == [5] * 7
    np.testing.assert_array_equal(rows, draw_rows(label, 7, 5, (1, 2)))
    assert set(rows) != set(draw_rows(label, 7, 5, (1, 3)))


def test_a_single_draw_has_no_spread() -> None:
    train = planted(60, 3, 8, 0.1, 0)
    assert list(dict(evaluate(train, train, labels=("2shot",), draws=1))) == ["few2shot"]


@pytest.mark.parametrize(
    ("name", "count"), [("1shot", 1), ("12shot", 12), ("1pct", 3), ("2.5pct", 8), ("10pct", 30)]
)
def test_names_say_how_many_images_of_a_class(name: str, count: int) -> None:
    assert images_per_class(name, planted(1200, 4, 8, 0.1, 0)) == count


@pytest.mark.parametrize("name", ["", "1", "shot", "0shot", "1 pct", "-1pct", "1.5shot"])
def test_other_names_are_wrong_use(name: str) -> None:
    with pytest.raises(WrongUse, match="1shot, or a share such as 1pct"):
        require_valid_labels([name], draws=1)


def test_too_few_images_are_refused() -> None:
    train = planted(40, 4, 8, 0.1, 0)
    with pytest.raises(PipelineError, match="1pct of 40 images is less than one for each of 4 classes"):
        images_per_class("1pct", train)
    rare = LabeledFeatures(train.embedding, np.where(np.arange(40) == 2, 2, train.label % 2), 4)
    with pytest.raises(PipelineError, match="2shot needs 2 images of each class, but class 3 has 0"):
        images_per_class("2shot", rare)
    named = replace(rare, names=("ant", "bee", "cat", "dog"))
    with pytest.raises(PipelineError, match="2shot needs 2 images of each class, but class 'dog' has 0"):
        images_per_class("2shot", named)
    with pytest.raises(WrongUse, match="--draws 0"):
        dict(evaluate(train, train, draws=0))
