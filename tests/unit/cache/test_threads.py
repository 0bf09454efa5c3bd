"""Tasks over threads."""

import threading
import time

import pytest

from cache.threads import MOST_THREADS, over_threads


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(over_threads(slow_first, range(50))) == [item * item for item in range(50)]


def test_tasks_overlap() -> None:
    # each of the two tasks waits for the other: sequentially they would never finish
    together = threading.Barrier(2, timeout=10)
    assert sorted(over_threads(lambda _: together.wait(), range(2))) == [0, 1]


def test_an_error_is_raised_and_the_remaining_tasks_are_not_started() -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        raise OSError(f"item {item}")

    with pytest.raises(OSError, match="item 0"):
        list(over_threads(fail, range(1000)))
    assert len(begun) <= 4 * MOST_THREADS
