"""Cluster alignment finds planted classes, is at chance on shuffled labels, and assigns clusters optimally."""

import statistics
import time
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.cluster_alignment import align, contingency, evaluate
from tests.support.planted import planted, shuffled


def test_planted_classes_are_all_found() -> None:
    # Few classes far apart, and a seed whose random start has one row in each of them.
    found = dict(evaluate(planted(400, 4, 16, 0.05, 0), planted(100, 4, 16, 0.05, 1), seeds=1, seed=0))
    assert found == {"ca": 1.0}


def test_random_starts_become_mean_and_sample_standard_deviation() -> None:
    train, val = planted(400, 8, 16, 0.8, 0), planted(200, 8, 16, 0.8, 1)
    # of seed 1 the starts 3 to 5, so that seeds have none in common
    single = [dict(evaluate(train, val, seeds=1, seed=seed))["ca"] for seed in (3, 4, 5)]
    assert len(set(single)) == 3
    assert dict(evaluate(train, val, seeds=3, seed=1)) == {
        "ca": pytest.approx(statistics.fmean(single)),
        "ca_std": pytest.approx(statistics.stdev(single)),
    }
    with pytest.raises(WrongUse, match="--ca-seeds 0"):
        dict(evaluate(train, val, seeds=0))


def test_shuffled_labels_are_near_chance() -> None:
    train, val = planted(2000, 10, 32, 0.05, 0), planted(1000, 10, 32, 0.05, 1)
    accuracy = dict(evaluate(shuffled(train, 2), shuffled(val, 3)))["ca"]
    # 0.1 of 1,000 rows has a standard deviation of 0.0095; clusters of a hundred rows are mapped together.
    assert 0.05 < accuracy < 0.15


def test_contingency_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    assignment, label = rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    expected = np.zeros((4, 6), dtype=np.int64)
    for cluster, class_ in zip(assignment, label, strict=True):
        expected[cluster, class_] += 1
    np.testing.assert_array_equal(contingency(assignment, label, 4, 6), expected)


@settings(deadline=None, max_examples=50)
@given(arrays(np.int64, (5, 5), elements=st.integers(0, 9)))
def test_align_is_the_best_of_all_permutations(counts: np.ndarray) -> None:
    def score(mapping: tuple[int, ...]) -> float:
        return sum(
            counts[cluster, class_] / counts[cluster].sum() if counts[cluster].any() else 0.0
            for cluster, class_ in enumerate(mapping)
        )

    mapping = align(counts)
    assert sorted(mapping.tolist()) == [0, 1, 2, 3, 4]
    # Sums of five float64 quotients, added in another order.
    assert score(tuple(mapping)) == pytest.approx(max(map(score, permutations(range(5)))), abs=1e-12)


def test_the_score_is_relative_to_the_cluster_not_to_the_rows() -> None:
    # In rows 60 + 1 is more than 40 + 6; in shares of the cluster 0.6 + 0.143 is less than 0.4 + 0.857.
    counts = np.array([[60, 40], [6, 1]])
    np.testing.assert_array_equal(align(counts), [1, 0])


def test_an_empty_cluster_takes_the_class_left_over() -> None:
    np.testing.assert_array_equal(align(np.array([[0, 8, 0], [0, 0, 0], [5, 0, 1]])), [1, 2, 0])


def test_equal_rows_leave_clusters_empty_without_harm() -> None:
    train = planted(60, 3, 8, 0.0, 0)
    train.embedding[:] = train.embedding[0]
    # One point: every row is in one cluster, which is mapped to one of three equally frequent classes.
    assert dict(evaluate(train, train)) == {"ca": pytest.approx(1 / 3), "ca_std": 0}


def test_fewer_rows_than_classes_are_refused() -> None:
    train = planted(9, 10, 16, 0.1, 0)
    with pytest.raises(PipelineError, match="10 clusters from 9 rows"):
        dict(evaluate(train, train))


def test_a_thousand_classes_of_imagenet_size_are_aligned_quickly() -> None:
    rng = np.random.default_rng(0)
    assignment, label = rng.integers(0, 1000, 1_281_167), rng.integers(0, 1000, 1_281_167)
    started = time.perf_counter()
    mapping = align(contingency(assignment, label, 1000, 1000))
    # 0.1 s on two busy cores; set intersections take minutes.
    assert time.perf_counter() - started < 10
    assert sorted(mapping.tolist()) == list(range(1000))
