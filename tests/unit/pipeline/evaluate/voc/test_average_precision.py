"""Average precision against cases worked by hand, scikit-learn and a naive count."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from pipeline.evaluate.voc.average_precision import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    AveragePrecision,
    Truth,
    average_precision,
    match,
    mean,
    overlaps,
)

answers = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([POSITIVE, NEGATIVE, IGNORED])), min_size=1, max_size=25
).filter(lambda rows: any(verdict == POSITIVE for _, verdict in rows))


def of(verdicts: list[int], positives: int, scores: list[float] | None = None) -> AveragePrecision:
    """The average precision of answers from the best to the worst, or with these scores."""
    ranks = np.arange(len(verdicts), 0, -1.0) if scores is None else np.array(scores, np.float64)
    return average_precision(ranks, np.array(verdicts, np.int64), positives)


def naive(rows: list[tuple[int, int]], positives: int) -> tuple[Fraction, Fraction]:
    """Eleven-point and area by the definition, at every threshold, in exact fractions."""
    points = []
    for threshold in {score for score, _ in rows}:
        chosen = [verdict for score, verdict in rows if score >= threshold and verdict != IGNORED]
        if chosen:
            found = chosen.count(POSITIVE)
            points.append((Fraction(found, positives), Fraction(found, len(chosen))))

    def best(recall: Fraction) -> Fraction:
        return max((precision for reached, precision in points if reached >= recall), default=Fraction(0))

    eleven = sum((best(Fraction(tenth, 10)) for tenth in range(11)), Fraction(0)) / 11
    area = sum((best(Fraction(k, positives)) for k in range(1, positives + 1)), Fraction(0)) / positives
    return eleven, area


def test_a_ranking_worked_by_hand() -> None:
    # hit, miss, hit, miss, hit of 4: precision 1, 2/3, 3/5 at recall 1/4, 1/2, 3/4, never 1
    result = of([1, 0, 1, 0, 1], 4)
    # recalls 0, .1, .2 have precision 1; .3, .4, .5 have 2/3; .6, .7 have 3/5; .8, .9, 1 are not reached
    assert result.eleven_point == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)
    assert result.area == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


def test_a_later_rise_of_precision_counts_for_the_lower_recalls_too() -> None:
    # miss, hit, hit of 2: precision 1/2 then 2/3, and 2/3 is to be had at recall 1/2 as well
    assert of([0, 1, 1], 2).area == pytest.approx(2 / 3)
    assert of([0, 1, 1], 2).eleven_point == pytest.approx(2 / 3)


def test_three_of_ten_reach_the_recall_of_three_tenths() -> None:
    # 0.1 * 3 is above 3 / 10 in floating point
    assert of([1, 1, 1], 10).eleven_point == pytest.approx(4 / 11)


@pytest.mark.parametrize("verdicts", [[], [0, 0], [-1]])
def test_nothing_found_is_zero(verdicts: list[int]) -> None:
    assert of(verdicts, 3) == AveragePrecision(eleven_point=0.0, area=0.0)


def test_equal_scores_stand_together_whatever_their_order() -> None:
    assert of([1, 0], 1, [5, 5]) == of([0, 1], 1, [5, 5]) == AveragePrecision(eleven_point=0.5, area=0.5)


@settings(deadline=None)
@given(answers, st.integers(0, 3))
def test_agrees_with_the_definition(rows: list[tuple[int, int]], missed: int) -> None:
    positives = sum(verdict == POSITIVE for _, verdict in rows) + missed
    result = of([verdict for _, verdict in rows], positives, [score for score, _ in rows])
    eleven, area = naive(rows, positives)
    assert result.eleven_point == pytest.approx(float(eleven), abs=1e-12)
    assert result.area == pytest.approx(float(area), abs=1e-12)


@settings(deadline=None)
@given(answers)
def test_is_never_below_scikit_learn_which_does_not_interpolate(rows: list[tuple[int, int]]) -> None:
    counted = [(score, verdict) for score, verdict in rows if verdict != IGNORED]
    scores, verdicts = np.array(counted).T
    result = of(verdicts.tolist(), int(verdicts.sum()), scores.tolist())
    assert result.area >= average_precision_score(verdicts, scores) - 1e-12


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(0, 3), st.integers(1, 3))
def test_equals_scikit_learn_where_precision_only_falls(hits: int, gap: int, growth: int) -> None:
    # ever longer runs of misses between the hits: precision falls from hit to hit, so there is nothing to
    # interpolate and the definitions agree
    verdicts = [one for place in range(hits) for one in [1] + [0] * (gap + growth * place)]
    scores = np.arange(len(verdicts), 0, -1.0)
    expected = average_precision_score(verdicts, scores)
    assert of(verdicts, hits).area == pytest.approx(expected, abs=1e-12)


def test_chance_is_the_share_of_positives() -> None:
    draws = np.random.default_rng(0)
    verdict = (draws.random(20_000) < 0.3).astype(np.int64)
    result = average_precision(draws.random(20_000), verdict, int(verdict.sum()))
    # the first few ranks move the mean of 11 points, the standard deviation of which is about 0.02
    assert result.area == pytest.approx(0.3, abs=0.02)
    assert result.eleven_point == pytest.approx(0.3, abs=0.1)


def test_the_mean_is_over_classes() -> None:
    values = [AveragePrecision(eleven_point=0.2, area=0.4), AveragePrecision(eleven_point=0.6, area=1.0)]
    assert mean(values) == AveragePrecision(eleven_point=pytest.approx(0.4), area=pytest.approx(0.7))


def test_overlap_worked_by_hand() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]], np.float64)
    found = overlaps(np.array([0, 0, 10, 10], np.float64), others)
    assert found == pytest.approx([1, 50 / 150, 0, 4 / 100])


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(-1, 4)


def test_detections_are_judged_as_voc_does() -> None:
    truth = [
        Truth(box=boxes((0, 0, 10, 10), (20, 0, 30, 10)), difficult=np.array([False, True])),
        Truth(box=boxes(), difficult=np.zeros(0, np.bool_)),
    ]
    rows = [
        ((0, 0, 10, 5), 0.5, 0, NEGATIVE),  # half of the union is enough, but a better one has it already
        ((0, 0, 10, 10), 0.9, 0, POSITIVE),
        ((0, 0, 10, 10), 0.8, 1, NEGATIVE),  # nothing is on the other image
        ((20, 0, 30, 10), 0.7, 0, IGNORED),  # a difficult object, however often it is found
        ((20, 0, 30, 9), 0.6, 0, IGNORED),
        ((12, 0, 21, 10), 0.4, 0, NEGATIVE),
    ]
    box, score, image, expected = zip(*rows, strict=True)
    verdict = match(boxes(*box), np.array(score), np.array(image), truth)
    assert verdict.tolist() == list(expected)


@pytest.mark.parametrize(("bottom", "verdict"), [(5, POSITIVE), (4.99, NEGATIVE)])
def test_half_of_the_union_is_enough(bottom: float, verdict: int) -> None:
    truth = [Truth(box=boxes((0, 0, 10, 10)), difficult=np.array([False]))]
    assert match(boxes((0, 0, 10, bottom)), np.array([1.0]), np.array([0]), truth).tolist() == [verdict]


def test_an_object_is_only_compared_with_the_one_it_overlaps_most() -> None:
    # VOC does not try the second best: the second detection overlaps the taken object more
    truth = [Truth(box=boxes((0, 0, 10, 10), (3, 0, 13, 10)), difficult=np.array([False, False]))]
    verdict = match(boxes((0, 0, 10, 10), (1, 0, 11, 10)), np.array([0.9, 0.8]), np.array([0, 0]), truth)
    assert verdict.tolist() == [POSITIVE, NEGATIVE]
