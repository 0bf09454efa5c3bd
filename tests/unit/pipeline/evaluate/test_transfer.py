"""Transfer equals scikit-learn's logistic regression with the penalty that is best on held-out rows."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.transfer import STRENGTHS, best_strength, evaluate, split
from pipeline.runtime.device import CPU
from tests.support.planted import planted, shuffled


def test_planted_classes_are_found_and_shuffled_labels_are_guessed() -> None:
    train, val = planted(400, 10, 32, 0.05, 0), planted(1000, 10, 32, 0.05, 1)
    assert dict(evaluate(train, val)) == {"transfer": 1.0, "transfer_top5": 1.0}
    chance = dict(evaluate(shuffled(train, 2), shuffled(val, 3)))
    # 0.1 of 1,000 rows has a standard deviation of 0.0095; a class's rows are predicted together.
    assert 0.05 < chance["transfer"] < 0.15
    assert 0.40 < chance["transfer_top5"] < 0.60


def test_equals_scikit_learn_with_the_penalty_that_is_best_on_the_held_out_rows() -> None:
    train, val = planted(300, 5, 40, 0.4, 0), planted(500, 5, 40, 0.4, 1)
    fitted, held_out = split(train, 0)

    def oracle(rows: LabeledFeatures, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, tol=1e-7, max_iter=20_000).fit(rows.embedding, rows.label)

    scores = [oracle(fitted, strength).score(held_out.embedding, held_out.label) for strength in STRENGTHS]
    chosen = STRENGTHS.index(best_strength(train, 0, CPU))
    # One of 60 held-out rows may fall on the other side of a boundary that two solvers found.
    assert scores[chosen] >= max(scores) - 1 / 60
    expected = oracle(train, STRENGTHS[chosen]).score(val.embedding, val.label)
    assert 0.4 < expected < 0.95
    assert dict(evaluate(train, val))["transfer"] == pytest.approx(expected, abs=1 / 500)


def test_noise_is_penalised_more_than_signal() -> None:
    clear, noisy = planted(300, 5, 40, 0.02, 0), planted(300, 5, 40, 1.5, 0)
    # Every penalty answers all held-out rows of the clear ones: of equals the strongest is taken.
    assert best_strength(clear, 0, CPU) == STRENGTHS[0]
    assert best_strength(noisy, 0, CPU) < STRENGTHS[-1]


def test_a_fifth_of_every_class_is_held_out() -> None:
    label = np.repeat([0, 1, 2], [10, 4, 25])
    train = LabeledFeatures(np.arange(39, dtype=np.float32)[:, None], label, 3)
    fitted, held_out = split(train, 0)
    assert np.bincount(held_out.label).tolist() == [2, 0, 5]
    assert sorted(np.concatenate([fitted.embedding, held_out.embedding])[:, 0]) == list(range(39))
    assert not np.array_equal(split(train, 1)[1].embedding, held_out.embedding)


def test_classes_of_four_images_leave_none_to_hold_out() -> None:
    with pytest.raises(PipelineError, match="no class of the train split has 5 usable images"):
        dict(evaluate(planted(12, 3, 8, 0.1, 0), planted(12, 3, 8, 0.1, 1)))
