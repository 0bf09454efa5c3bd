"""The linear probe finds planted classes, is deterministic, and takes the steps of plain SGD."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures
from pipeline.evaluate.linear import (
    LinearProbe,
    cached_batches,
    evaluate,
    learning_rate,
    new_probe,
    train_probe,
)
from pipeline.runtime.device import CPU
from tests.support.planted import planted, shuffled


def test_planted_classes_are_all_found() -> None:
    found = dict(evaluate(planted(1000, 10, 32, 0.05, 0), planted(200, 10, 32, 0.05, 1)))
    assert found == {"linear": 1.0, "linear_top5": 1.0}


def test_shuffled_labels_are_near_chance() -> None:
    train, val = planted(1000, 10, 32, 0.05, 0), planted(1000, 10, 32, 0.05, 1)
    found = dict(evaluate(shuffled(train, 2), shuffled(val, 3)))
    # Standard deviations 0.0095 and 0.016; a class's rows are predicted together, which adds as much again.
    assert 0.05 < found["linear"] < 0.15
    assert 0.42 < found["linear_top5"] < 0.58


def test_five_classes_have_no_top5() -> None:
    assert list(dict(evaluate(planted(50, 5, 8, 0.1, 0), planted(20, 5, 8, 0.1, 1), epochs=1))) == ["linear"]


def test_a_seed_decides_the_result_and_the_global_generator_is_left_alone() -> None:
    train = planted(600, 6, 16, 0.6, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (trained_weight(train, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def trained_weight(train: LabeledFeatures, seed: int) -> Tensor:
    probe = new_probe(train, seed)
    train_probe(probe, cached_batches(train, seed), 2, CPU)
    return probe.linear.weight.detach().clone()


def test_batches_hold_every_row_once_in_an_order_of_seed_and_epoch() -> None:
    train = LabeledFeatures(np.arange(600, dtype=np.float32)[:, None], np.arange(600), 600)

    def order(seed: int, epoch: int) -> list[int]:
        batches = list(cached_batches(train, seed)(epoch))
        assert [len(labels) for _, labels in batches] == [256, 256, 88]
        assert all(torch.equal(features[:, 0].long(), labels) for features, labels in batches)
        return torch.cat([labels for _, labels in batches]).tolist()

    assert sorted(order(0, 0)) == list(range(600))
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_learning_rate_falls_at_15_and_30_of_40() -> None:
    rates = [learning_rate(epoch) for epoch in range(40)]
    assert rates == pytest.approx([0.01] * 15 + [0.001] * 15 + [0.0001] * 10)
    assert [learning_rate(epoch, 8) for epoch in (2, 3, 5, 6)] == pytest.approx([0.01, 0.001, 0.001, 0.0001])


def test_the_probe_is_standardised_by_the_train_features() -> None:
    train = planted(200, 4, 8, 0.5, 0)
    probe = new_probe(train, 0)
    x = train.embedding.astype(np.float64)
    # float32 statistics of 200 rows
    np.testing.assert_allclose(probe.mean, x.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(probe.scale, 1 / np.sqrt(x.var(axis=0, ddof=1) + 1e-5), rtol=1e-5)


def test_three_steps_equal_the_update_written_out() -> None:
    """SGD with momentum 0.9 and weight decay 1e-4 on the standardised rows."""
    rows, labels = planted(60, 3, 8, 0.5, 0).embedding.astype(np.float64), np.arange(60) % 3
    mean, variance = rows.mean(axis=0), rows.var(axis=0)
    probe = LinearProbe(torch.from_numpy(mean), torch.from_numpy(variance), 3).double()
    weight, bias = (parameter.detach().numpy().copy() for parameter in probe.linear.parameters())
    x = (rows / np.linalg.norm(rows, axis=1, keepdims=True) - mean) / np.sqrt(variance + 1e-5)
    weight_step, bias_step = np.zeros_like(weight), np.zeros_like(bias)
    for rate in (0.01, 0.01, 0.001):  # of 3 epochs, the third begins after 3/8 and before 3/4
        exponent = np.exp(x @ weight.T + bias)
        error = (exponent / exponent.sum(axis=1, keepdims=True) - np.eye(3)[labels]) / 60
        weight_step = 0.9 * weight_step + error.T @ x + 1e-4 * weight
        bias_step = 0.9 * bias_step + error.sum(axis=0) + 1e-4 * bias
        weight, bias = weight - rate * weight_step, bias - rate * bias_step
    train_probe(probe, lambda epoch: iter([(torch.from_numpy(rows), torch.from_numpy(labels))]), 3, CPU)
    # double precision on both sides
    np.testing.assert_allclose(probe.linear.weight.detach().numpy(), weight, atol=1e-12)
    np.testing.assert_allclose(probe.linear.bias.detach().numpy(), bias, atol=1e-12)


def test_given_batches_are_trained_on_in_place_of_the_stored_features() -> None:
    train, val = planted(1000, 10, 32, 0.05, 0), planted(200, 10, 32, 0.05, 1)
    epochs = []

    def rotated(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        epochs.append(epoch)
        # longer rows, as a backbone outputs them, labelled by the next class
        for features, labels in cached_batches(train, 0)(epoch):
            yield 7 * features, (labels + 1) % 10

    val = LabeledFeatures(val.embedding, (val.label + 1) % 10, 10)
    found = dict(evaluate(train, val, batches=rotated))
    assert epochs == list(range(40))
    assert found["linear"] == 1.0


def test_the_length_of_a_row_does_not_matter() -> None:
    probe = new_probe(planted(100, 4, 8, 0.3, 0), 0)
    rows = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probe(rows), probe(1000 * rows))


def test_dead_features_change_nothing() -> None:
    train, val = planted(600, 6, 16, 0.3, 0), planted(300, 6, 16, 0.3, 1)
    for features in (train, val):
        features.embedding[:, 10:] = 0
    logits = new_probe(train, 0)(torch.from_numpy(train.embedding))
    assert logits.isfinite().all()
    scaled = (torch.from_numpy(train.embedding) - new_probe(train, 0).mean) * new_probe(train, 0).scale
    assert not scaled[:, 10:].any()
    assert dict(evaluate(train, val))["linear"] > 0.9


def test_features_that_are_not_finite_are_an_error() -> None:
    train = planted(60, 6, 8, 0.3, 0)

    def broken(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.full((2, 8), torch.nan), torch.zeros(2, dtype=torch.int64)

    for batches in (broken, lambda epoch: iter(())):
        with pytest.raises(PipelineError, match="loss is nan after epoch 1 of 40"):
            dict(evaluate(train, train, batches=batches))


def test_the_number_of_threads_is_given_back() -> None:
    train = planted(60, 6, 8, 0.3, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        dict(evaluate(train, train, epochs=1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
