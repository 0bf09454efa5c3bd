"""Learning rates at the paper's epochs."""

import pytest

from pipeline.models.optimizer import learning_rate


def rate(epoch: float, schedule: str, warmup: int = 0) -> float:
    return learning_rate(round(epoch * 100), peak=0.01, steps=13_000, warmup=warmup, schedule=schedule)


def test_the_papers_steps() -> None:
    assert rate(0, "step") == rate(89.99, "step") == 0.01
    assert rate(90, "step") == rate(119.99, "step") == pytest.approx(0.002)
    assert rate(120, "step") == rate(129.99, "step") == pytest.approx(0.0004)


def test_cosine_falls_from_the_peak_to_zero() -> None:
    assert rate(0, "cosine") == 0.01
    assert rate(65, "cosine") == pytest.approx(0.005)
    assert 0 < rate(129.99, "cosine") < 1e-8


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert rate(0, "cosine", warmup=100) == pytest.approx(0.0001)
    assert rate(0.49, "step", warmup=100) == pytest.approx(0.005)
    assert rate(1, "cosine", warmup=100) == 0.01
