"""Learning rates at the paper's epochs."""

from pathlib import Path

import pytest
from torch import nn

from pipeline.models.optimizer import build_optimizer, learning_rate
from pipeline.settings.training import DistillConfig


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


def test_the_steps_of_the_cluster_classifier() -> None:
    rates = [
        learning_rate(step, peak=0.1, steps=100, warmup=0, schedule="step-30-60-80") for step in range(100)
    ]
    for part, expected in ((rates[:30], 0.1), (rates[30:60], 0.01), (rates[60:80], 1e-3), (rates[80:], 1e-4)):
        assert part == pytest.approx([expected] * len(part))


def test_nesterov_decays_all_but_batch_norm() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    places = {name: Path(name) for name in ("dataset", "cache", "run")}
    optimizer = build_optimizer(DistillConfig(**places, optimizer="nesterov", wd=0.1), network)
    decay = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    found = {name: decay[id(each)] for name, each in network.named_parameters()}
    assert {name for name, value in found.items() if value == 0} == {
        "1.weight",
        "1.bias",
        "3.weight",
        "3.bias",
    }
    assert set(found.values()) == {0.0, 0.1}
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_nesterov_of_a_network_without_batch_norm() -> None:
    places = {name: Path(name) for name in ("dataset", "cache", "run")}
    optimizer = build_optimizer(DistillConfig(**places, optimizer="nesterov", wd=0.1), nn.Linear(4, 2))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]
