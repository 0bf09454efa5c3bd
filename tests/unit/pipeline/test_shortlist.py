from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import shortlist
from pipeline.neighbours import knn
from pipeline.shortlist import GROUP, pays, shortlisted_knn


def oracle(train: NDArray, query: NDArray, k: int) -> NDArray[np.int64]:
    """By float64, of equal products the first row."""
    # a loop over the dimensions, so that equal rows have equal sums whatever their place
    products = np.zeros((len(query), len(train)))
    for d in range(train.shape[1]):
        products += np.outer(query[:, d].astype(np.float64), train[:, d].astype(np.float64))
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


def unit_rows(count: int, dim: int, draws: np.random.Generator, shift: float = 0.0) -> NDArray[np.float32]:
    rows = np.maximum(draws.standard_normal((count, dim)) + shift, 0) + 1e-3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1_000, 3_000),
    dim=st.sampled_from([1, 3, 32, 100]),
    k=st.integers(1, 12),
    shift=st.sampled_from([0.0, 3.0]),
    length=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_the_neighbours_are_those_of_float64(
    seed: int, rows: int, dim: int, k: int, shift: float, length: float
) -> None:
    draws = np.random.default_rng(seed)
    train = unit_rows(rows, dim, draws, shift) * np.float32(length)
    query = unit_rows(7, dim, draws) - np.float32(0.1)
    found = shortlisted_knn(train, query, k)
    if found is None:
        assert dim <= 3  # unit rows of so few dimensions are much alike
        return
    np.testing.assert_array_equal(found[1], oracle(train, query, k))
    products = np.take_along_axis(query.astype(np.float64) @ train.T.astype(np.float64), found[1], axis=1)
    np.testing.assert_allclose(found[0], products, rtol=1e-6, atol=1e-6 * length)


def test_of_equal_rows_the_first_come_first() -> None:
    draws = np.random.default_rng(0)
    # small whole numbers: most products are shared by many rows
    train = draws.integers(-2, 3, (6_000, 4)).astype(np.float32)
    query = draws.integers(-2, 3, (20, 4)).astype(np.float32)
    query[(query == 0).all(axis=1)] = 1
    with patch.object(shortlist, "MOST_GROUPS", 6_000):
        found = shortlisted_knn(train, query, 9)
    assert found is not None
    np.testing.assert_array_equal(found[1], oracle(train, query, 9))


@pytest.mark.parametrize("place", ["within a group", "in the last, short group"])
def test_a_neighbour_is_found_wherever_it_stands(place: str) -> None:
    draws = np.random.default_rng(0)
    train, query = unit_rows(40 * GROUP + 5, 64, draws), unit_rows(1, 64, draws)
    nearest = 17 * GROUP + 3 if place == "within a group" else len(train) - 1
    train[nearest] = query[0]
    found = shortlisted_knn(train, query, 1)
    assert found is not None
    assert found[1].item() == nearest


def test_rows_that_bfloat16_cannot_tell_apart_are_ranked() -> None:
    draws = np.random.default_rng(0)
    train, query = unit_rows(5_000, 64, draws), unit_rows(2, 64, draws)
    # forty rows within half of the smallest step of bfloat16, the last the nearest
    near = np.float32(0.9) * query[0] * (1 + np.arange(40, dtype=np.float32) / 40 * 2**-9)[:, None]
    train[1_000:1_040] = near
    found = shortlisted_knn(train, query, 20)
    assert found is not None
    assert found[1][0].tolist() == list(range(1_039, 1_019, -1))


def test_the_products_differ_by_no_more_than_the_bound() -> None:
    draws = np.random.default_rng(0)
    for dim in (8, 512, 2048):
        train, query = unit_rows(3_000, dim, draws), unit_rows(50, dim, draws)
        bits, bound = shortlist._products(query, shortlist._rounded(train))
        rounded = torch.from_numpy(bits).view(torch.bfloat16).double().numpy()
        mean = np.mean(train, axis=0, dtype=np.float64).astype(np.float32).astype(np.float64)
        exact = query.astype(np.float64) @ (train.astype(np.float64) - mean).T
        error = np.abs(rounded - exact).max(axis=1)
        assert (error <= bound).all()
        # and the bound says something: less than a twentieth of what similarities are
        assert (error > bound / 50).all()
        assert bound.max() < 0.05


def test_keys_are_in_the_order_of_the_numbers() -> None:
    values = torch.tensor([-torch.inf, -3e38, -1.5, -1.0, -1e-30, 0.0, 1e-30, 1.0, 1.5, 3e38]).bfloat16()
    keys = np.array([shortlist._key(bits) for bits in values.view(torch.int16).numpy()], np.int16)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(shortlist._value(keys), values.float().numpy())
    some = np.random.default_rng(0).standard_normal(1_000)
    below = shortlist._value(shortlist._below(some))
    assert (below < some).all()
    # two steps of bfloat16 at most
    np.testing.assert_allclose(below, some, rtol=2 * 2**-7)


def test_rows_too_much_alike_are_left_to_float32() -> None:
    draws = np.random.default_rng(0)
    row = unit_rows(1, 32, draws)
    train = np.repeat(row, 70_000, axis=0)
    assert shortlisted_knn(train, unit_rows(200, 32, draws), 1) is None
    found = knn(train, unit_rows(200, 32, draws), 1)
    assert found[0].shape == (200, 1)


def test_what_overflows_is_left_to_float32() -> None:
    rows = np.full((2_000, 4), 3e30, np.float32)
    rows[::2] *= -1
    assert shortlisted_knn(rows, rows[:5], 1) is None


def test_it_is_for_searches_that_are_large_enough() -> None:
    with patch("torch.cpu.get_capabilities", return_value={"avx512_bf16": True}):
        assert pays(50_000, 2_500, 20)
        assert not pays(50_000, 16, 20)
        assert not pays(5_000, 2_500, 20)
    with patch("torch.cpu.get_capabilities", return_value={"avx2": True}):
        assert not pays(50_000, 2_500, 20)


def test_knn_asks_it_where_it_pays_and_the_neighbours_are_the_same() -> None:
    draws = np.random.default_rng(3)
    train, query = unit_rows(12_000, 48, draws), unit_rows(300, 48, draws)
    with patch("pipeline.neighbours.pays", return_value=False):
        similarity, index = knn(train, query, 10)
    with (
        patch("pipeline.neighbours.pays", return_value=True),
        patch("pipeline.neighbours.shortlisted_knn", wraps=shortlisted_knn) as asked,
    ):
        found = knn(train, query, 10)
    assert asked.call_count == 1
    # float32 may swap two that differ by its own error
    assert (found[1] != index).mean() < 0.001
    np.testing.assert_allclose(found[0], similarity, atol=1e-6)
