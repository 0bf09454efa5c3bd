"""The anchor window: which rows are anchors at which step, and in which slot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.anchors import AnchorWindow, default_anchors

EXAMPLES = settings(deadline=None, max_examples=100)


@st.composite
def arguments(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """Any K <= M and any B, including B > K and B > M, over rows with gaps."""
    count = draw(st.integers(1, 40))
    eligible = np.arange(count, dtype=np.int64) * 3 + 7
    return eligible, draw(st.integers(1, count)), draw(st.integers(1, 90)), draw(st.integers(0, 2**32))


@EXAMPLES
@given(drawn=arguments(), step=st.integers(0, 10**15))
def test_a_window_holds_k_different_eligible_rows(drawn: tuple, step: int) -> None:
    eligible, size, _, _ = drawn
    rows = AnchorWindow(*drawn).rows_at(step)
    assert rows.shape == (size,)
    assert len(set(rows)) == size
    assert set(rows) <= set(eligible)


@EXAMPLES
@given(drawn=arguments(), start=st.integers(0, 1000))
def test_a_ring_kept_by_entering_rows_equals_the_window(drawn: tuple, start: int) -> None:
    _, size, batch, _ = drawn
    window = AnchorWindow(*drawn)
    ring = window.rows_at(start)
    for step in range(start + 1, start + 8):
        slots, rows = window.entering(step)
        assert len(slots) == len(set(slots)) <= min(batch, size)
        ring[slots] = rows
        np.testing.assert_array_equal(ring, window.rows_at(step))


@EXAMPLES
@given(drawn=arguments(), step=st.integers(0, 50))
def test_position_p_is_in_slot_p_mod_k(drawn: tuple, step: int) -> None:
    """The definition, position by position; a window of all rows is the permutation."""
    eligible, size, batch, seed = drawn
    permutation = AnchorWindow(eligible, len(eligible), 1, seed).rows_at(0)
    positions = range(step * batch, step * batch + size)
    expected = {p % size: permutation[p % len(eligible)] for p in positions}
    assert [expected[slot] for slot in range(size)] == AnchorWindow(*drawn).rows_at(step).tolist()


def test_all_rows_are_anchors_once_each_before_any_comes_back() -> None:
    window = AnchorWindow(np.arange(100), size=10, batch=10, seed=0)
    rows = np.concatenate([window.rows_at(step) for step in range(10)])
    assert sorted(rows) == list(range(100))
    np.testing.assert_array_equal(window.rows_at(10), window.rows_at(0))


def test_every_row_an_anchor_never_changes() -> None:
    window = AnchorWindow(np.arange(50), size=50, batch=7, seed=3)
    for step in range(1, 20):
        assert [len(part) for part in window.entering(step)] == [0, 0]
        np.testing.assert_array_equal(window.rows_at(step), window.rows_at(0))


def test_one_anchor() -> None:
    window = AnchorWindow(np.arange(5), size=1, batch=1, seed=0)
    assert sorted(int(window.rows_at(step)[0]) for step in range(5)) == [0, 1, 2, 3, 4]


def test_the_window_depends_only_on_the_seed_and_never_changes() -> None:
    rows = np.arange(12)
    # recorded once: old runs must stay repeatable
    expected = [[9, 2, 7, 4, 5], [11, 0, 3, 4, 5]]
    assert [AnchorWindow(rows, 5, 3, seed=0).rows_at(step).tolist() for step in (0, 1)] == expected
    assert AnchorWindow(rows, 5, 3, seed=1).rows_at(0).tolist() != expected[0]


def test_wrong_sizes_are_refused() -> None:
    for size in (0, 6):
        with pytest.raises(ValueError, match=f"expected 1 to 5 anchors, the eligible rows, found {size}"):
            AnchorWindow(np.arange(5), size=size, batch=1, seed=0)
    with pytest.raises(ValueError, match="at least 1 row, found 0"):
        AnchorWindow(np.arange(5), size=1, batch=0, seed=0)
    with pytest.raises(ValueError, match="found step 0"):
        AnchorWindow(np.arange(5), size=1, batch=1, seed=0).entering(0)


def test_default_anchors() -> None:
    assert default_anchors(1_281_167) == 128_000
    assert default_anchors(60_000) == 60_000
