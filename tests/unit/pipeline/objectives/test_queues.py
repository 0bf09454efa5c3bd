import threading
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cache.anchors import AnchorWindow
from cache.errors import CorruptStore
from cache.layout import SplitShape
from cache.reader import Split
from pipeline.objectives.queues import AnchorQueue, KeyQueue, last_occurrence
from tests.support.tiny_store import written

ROWS, DIM, TEACHER_DIM = 60, 3, 8


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=ROWS, views=1, dim=TEACHER_DIM))


def cached(split: Split, rows: Tensor) -> Tensor:
    return torch.from_numpy(split.gather(rows.numpy()))


def enqueue(queue: KeyQueue, rows: list[int], start: float) -> Tensor:
    """Enqueue rows with distinct keys: start, start + 1, ..."""
    keys = (start + torch.arange(len(rows)))[:, None].expand(-1, DIM)
    queue.enqueue(torch.tensor(rows), keys, cached(queue.split, torch.tensor(rows)))
    return keys


def key_of_row(queue: KeyQueue) -> dict[int, float]:
    return {int(row): queue.keys[slot, 0].item() for slot, row in enumerate(queue.rows) if row >= 0}


class NaiveQueue:
    """What the queue promises, one row at a time."""

    def __init__(self, size: int) -> None:
        self.slots: list[tuple[int, float] | None] = [None] * size
        self.next = 0

    def enqueue(self, rows: list[int], keys: list[float]) -> None:
        batch: dict[int, float] = {}
        for row, key in zip(rows, keys, strict=True):
            batch.pop(row, None)
            batch[row] = key
        seen = {entry[0]: slot for slot, entry in enumerate(self.slots) if entry}
        for row in batch.keys() & seen.keys():
            self.slots[seen[row]] = (row, batch[row])
        for row in batch:
            if row not in seen:
                self.slots[self.next % len(self.slots)] = (row, batch[row])
                self.next += 1


# without rows 3 and 5, which have no embedding
batches = st.lists(st.lists(st.integers(6, 30), min_size=1, max_size=12), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 20), batches=batches)
def test_a_queue_holds_what_the_naive_one_holds(split: Split, size: int, batches: list[list[int]]) -> None:
    queue, naive, start = KeyQueue(split, size, DIM), NaiveQueue(size), 1.0
    for rows in batches:
        keys = enqueue(queue, rows, start)
        naive.enqueue(rows, keys[:, 0].tolist())
        start += len(rows)
        entries = [entry for entry in naive.slots if entry]
        assert queue.filled == len(entries)
        assert queue.rows[: queue.filled].tolist() == [row for row, _ in entries]
        assert queue.rows[queue.filled :].tolist() == [-1] * (size - queue.filled)
        assert queue.keys[: queue.filled, 0].tolist() == [key for _, key in entries]
        assert torch.equal(queue.teacher[: queue.filled], cached(split, queue.rows[: queue.filled]))
        slots = {row: slot for slot, (row, _) in enumerate(entries)}
        assert queue.slots_of(torch.arange(ROWS)).tolist() == [slots.get(row, -1) for row in range(ROWS)]


def test_a_row_seen_again_keeps_its_slot_and_its_age(split: Split) -> None:
    queue = KeyQueue(split, 3, DIM)
    enqueue(queue, [10, 11, 12], 0)
    enqueue(queue, [10], 100)
    assert queue.rows.tolist() == [10, 11, 12]
    assert key_of_row(queue) == {10: 100, 11: 1, 12: 2}
    enqueue(queue, [13], 200)
    assert key_of_row(queue) == {13: 200, 11: 1, 12: 2}


def test_a_queue_saved_and_loaded_continues_bit_for_bit(split: Split) -> None:
    queue, other = KeyQueue(split, 7, DIM), KeyQueue(split, 7, DIM)
    enqueue(queue, [10, 11, 12, 13, 14, 15, 16, 17, 18], 0)
    enqueue(other, [40, 41], 7)
    state = {name: tensor.clone() for name, tensor in queue.state_dict().items()}
    assert set(state) == {"rows", "keys", "_extra_state"}
    other.load_state_dict(state)
    for _ in range(2):
        assert torch.equal(other.rows, queue.rows)
        assert torch.equal(other.keys, queue.keys)
        assert torch.equal(other.teacher, queue.teacher)
        assert torch.equal(other.slot_of_row, queue.slot_of_row)
        assert (other.position, other.filled) == (queue.position, queue.filled)
        for one in (queue, other):
            enqueue(one, [20, 11, 21], 50)


def test_a_half_filled_queue_loads(split: Split) -> None:
    queue, other = KeyQueue(split, 7, DIM), KeyQueue(split, 7, DIM)
    enqueue(queue, [10, 11], 0)
    other.load_state_dict(queue.state_dict())
    assert other.filled == 2
    assert torch.equal(other.teacher, queue.teacher)
    assert other.slots_of(torch.tensor([11, 10, 0])).tolist() == [1, 0, -1]


def test_embeddings_of_a_live_teacher_are_saved_and_not_fetched(split: Split) -> None:
    queue, other = (KeyQueue(split, 7, DIM, live=True) for _ in range(2))
    embeddings = torch.arange(2 * TEACHER_DIM).reshape(2, TEACHER_DIM) / 32
    queue.enqueue(torch.tensor([10, 11]), torch.ones(2, DIM), embeddings)
    assert set(queue.state_dict()) == {"rows", "keys", "teacher", "_extra_state"}
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.teacher[:2], embeddings.half())
    assert other.slots_of(torch.tensor([11, 10, 0])).tolist() == [1, 0, -1]


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.integers(0, 5), max_size=12))
def test_last_occurrence(rows: list[int]) -> None:
    last = {row: place for place, row in enumerate(rows)}
    assert last_occurrence(torch.tensor(rows, dtype=torch.int64)).tolist() == [last[row] for row in rows]


class CountingSplit:
    """A split that counts the rows fetched from it."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.shape = split.shape
        self.fetched = 0

    def gather(self, rows: np.ndarray) -> np.ndarray:
        self.fetched += len(rows)
        return self.split.gather(rows)


def queue_of(split: Split, size: int, batch: int) -> tuple[AnchorQueue, CountingSplit]:
    counting = CountingSplit(split)
    window = AnchorWindow(split.eligible(), size, batch, seed=0)
    return AnchorQueue(counting, window), counting  # type: ignore[arg-type]


def fetched_at(queue: AnchorQueue, counting: CountingSplit, step: int) -> int:
    """Return how many rows a step fetches, those that it reads ahead included."""
    counting.fetched = 0
    queue.move_to(step)
    assert queue.entering is not None
    queue.entering.result()
    return counting.fetched


def assert_holds(queue: AnchorQueue, split: Split, step: int) -> None:
    rows = torch.from_numpy(queue.window.rows_at(step))
    assert torch.equal(queue.rows, rows)
    assert torch.equal(queue.anchors, cached(split, rows))
    expected = torch.full((ROWS,), -1)
    expected[rows] = torch.arange(queue.size)
    assert torch.equal(queue.slots_of(torch.arange(ROWS)), expected)


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (57, 8), (5, 9), (1, 1)])
def test_a_step_fetches_only_what_enters_next_and_a_jump_fetches_everything(
    split: Split, size: int, batch: int
) -> None:
    queue, counting = queue_of(split, size, batch)
    entering = min(size, batch)
    for step in range(20):
        assert fetched_at(queue, counting, step) == (entering if step else size + entering)
        assert_holds(queue, split, step)
    for step in (1000, 3):
        assert fetched_at(queue, counting, step) == size + entering
        assert_holds(queue, split, step)


def test_the_next_anchors_are_read_while_the_step_goes_on(split: Split) -> None:
    """Here the reading ends only after the step has: a step that waited for it would never end."""
    queue, counting = queue_of(split, 10, 4)
    step_ended, gather = threading.Event(), counting.gather

    def gather_late(rows: np.ndarray) -> np.ndarray:
        if threading.current_thread() is not threading.main_thread():
            assert step_ended.wait(60)
        return gather(rows)

    counting.gather = gather_late  # type: ignore[method-assign]
    queue.move_to(0)
    step_ended.set()
    queue.move_to(1)
    assert_holds(queue, split, 1)


def test_what_fails_while_reading_ahead_is_raised_at_the_step_that_needs_it(split: Split) -> None:
    queue, counting = queue_of(split, 10, 4)
    queue.move_to(0)
    assert queue.entering is not None
    queue.entering.result()
    counting.gather = Mock(side_effect=CorruptStore("a chunk is truncated"))  # type: ignore[method-assign]
    queue.move_to(1)
    with pytest.raises(CorruptStore, match="a chunk is truncated"):
        queue.move_to(2)


def test_the_same_step_and_a_queue_of_every_row_fetch_nothing(split: Split) -> None:
    queue, counting = queue_of(split, len(split.eligible()), 8)
    queue.move_to(4)
    assert [fetched_at(queue, counting, step) for step in (4, 5, 6)] == [0, 0, 0]
    assert_holds(queue, split, 6)


def test_a_queue_is_float16_and_saves_nothing(split: Split) -> None:
    queue, _ = queue_of(split, 10, 4)
    assert (queue.anchors.dtype, dict(queue.state_dict())) == (torch.float16, {})
