from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cache.anchors import AnchorWindow
from cache.layout import SplitShape
from cache.reader import Split
from pipeline.objectives.queues import AnchorQueue, KeyQueue, last_of_each
from tests.support.tiny_store import written

ROWS, DIM, TEACHER_DIM = 60, 3, 8


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=ROWS, views=1, dim=TEACHER_DIM))


def cached(split: Split, rows: Tensor) -> Tensor:
    return torch.from_numpy(split.gather(rows.numpy()))


def enqueue(bank: KeyQueue, rows: list[int], start: float) -> Tensor:
    """Keys that tell every enqueued row apart: start, start + 1, ..."""
    keys = (start + torch.arange(len(rows)))[:, None].expand(-1, DIM)
    bank.enqueue(torch.tensor(rows), keys, cached(bank.split, torch.tensor(rows)))
    return keys


def key_of_row(bank: KeyQueue) -> dict[int, float]:
    return {int(row): bank.keys[slot, 0].item() for slot, row in enumerate(bank.rows) if row >= 0}


class NaiveBank:
    """The bank's promise, one row at a time."""

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


# No embedding of the planted rows 3 and 5.
batches = st.lists(st.lists(st.integers(6, 30), min_size=1, max_size=12), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 20), batches=batches)
def test_a_bank_is_what_the_naive_one_is(split: Split, size: int, batches: list[list[int]]) -> None:
    bank, naive, start = KeyQueue(split, size, DIM), NaiveBank(size), 1.0
    for rows in batches:
        keys = enqueue(bank, rows, start)
        naive.enqueue(rows, keys[:, 0].tolist())
        start += len(rows)
        entries = [entry for entry in naive.slots if entry]
        assert bank.filled == len(entries)
        assert bank.rows[: bank.filled].tolist() == [row for row, _ in entries]
        assert bank.rows[bank.filled :].tolist() == [-1] * (size - bank.filled)
        assert bank.keys[: bank.filled, 0].tolist() == [key for _, key in entries]
        assert torch.equal(bank.teacher[: bank.filled], cached(split, bank.rows[: bank.filled]))
        slots = {row: slot for slot, (row, _) in enumerate(entries)}
        assert bank.slots_of(torch.arange(ROWS)).tolist() == [slots.get(row, -1) for row in range(ROWS)]


def test_a_row_seen_again_keeps_its_slot_and_its_age(split: Split) -> None:
    bank = KeyQueue(split, 3, DIM)
    enqueue(bank, [10, 11, 12], 0)
    enqueue(bank, [10], 100)
    assert bank.rows.tolist() == [10, 11, 12]
    assert key_of_row(bank) == {10: 100, 11: 1, 12: 2}
    enqueue(bank, [13], 200)
    assert key_of_row(bank) == {13: 200, 11: 1, 12: 2}


def test_a_bank_saved_and_loaded_goes_on_bit_for_bit(split: Split) -> None:
    bank, other = KeyQueue(split, 7, DIM), KeyQueue(split, 7, DIM)
    enqueue(bank, [10, 11, 12, 13, 14, 15, 16, 17, 18], 0)
    enqueue(other, [40, 41], 7)
    state = {name: tensor.clone() for name, tensor in bank.state_dict().items()}
    assert set(state) == {"rows", "keys", "_extra_state"}
    other.load_state_dict(state)
    for _ in range(2):
        assert torch.equal(other.rows, bank.rows)
        assert torch.equal(other.keys, bank.keys)
        assert torch.equal(other.teacher, bank.teacher)
        assert torch.equal(other.slot_of_row, bank.slot_of_row)
        assert (other.position, other.filled) == (bank.position, bank.filled)
        for one in (bank, other):
            enqueue(one, [20, 11, 21], 50)


def test_a_half_filled_bank_loads(split: Split) -> None:
    bank, other = KeyQueue(split, 7, DIM), KeyQueue(split, 7, DIM)
    enqueue(bank, [10, 11], 0)
    other.load_state_dict(bank.state_dict())
    assert other.filled == 2
    assert torch.equal(other.teacher, bank.teacher)
    assert other.slots_of(torch.tensor([11, 10, 0])).tolist() == [1, 0, -1]


def test_what_a_live_teacher_said_is_saved_and_not_fetched(split: Split) -> None:
    bank, other = (KeyQueue(split, 7, DIM, live=True) for _ in range(2))
    said = torch.arange(2 * TEACHER_DIM).reshape(2, TEACHER_DIM) / 32
    bank.enqueue(torch.tensor([10, 11]), torch.ones(2, DIM), said)
    assert set(bank.state_dict()) == {"rows", "keys", "teacher", "_extra_state"}
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.teacher[:2], said.half())
    assert other.slots_of(torch.tensor([11, 10, 0])).tolist() == [1, 0, -1]


def test_keys_keep_the_dtype_of_the_bank(split: Split) -> None:
    bank = KeyQueue(split, 4, DIM, dtype=torch.float16)
    bank.enqueue(torch.tensor([10]), torch.full((1, DIM), 0.1), torch.ones(1, TEACHER_DIM))
    assert (bank.keys.dtype, bank.teacher.dtype) == (torch.float16, torch.float16)
    assert bank.keys[0, 0] == torch.tensor(0.1, dtype=torch.float16)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.integers(0, 5), max_size=12))
def test_last_of_each(rows: list[int]) -> None:
    expected = sorted({row: place for place, row in enumerate(rows)}.values())
    assert last_of_each(torch.tensor(rows, dtype=torch.int64)).tolist() == expected


class CountingSplit:
    """A split that counts the rows fetched from it."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.shape = split.shape
        self.fetched = 0

    def gather(self, rows: np.ndarray) -> np.ndarray:
        self.fetched += len(rows)
        return self.split.gather(rows)


def ring_of(split: Split, size: int, batch: int) -> tuple[AnchorQueue, CountingSplit]:
    counting = CountingSplit(split)
    window = AnchorWindow(split.eligible(), size, batch, seed=0)
    return AnchorQueue(counting, window), counting  # type: ignore[arg-type]


def assert_holds(ring: AnchorQueue, split: Split, step: int) -> None:
    rows = torch.from_numpy(ring.window.rows_at(step))
    assert torch.equal(ring.rows, rows)
    assert torch.equal(ring.anchors, cached(split, rows))
    expected = torch.full((ROWS,), -1)
    expected[rows] = torch.arange(ring.size)
    assert torch.equal(ring.slots_of(torch.arange(ROWS)), expected)


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (57, 8), (5, 9), (1, 1)])
def test_a_step_fetches_what_enters_and_a_jump_everything(split: Split, size: int, batch: int) -> None:
    ring, counting = ring_of(split, size, batch)
    for step in range(20):
        counting.fetched = 0
        ring.move_to(step)
        assert counting.fetched == (size if step == 0 else min(size, batch))
        assert_holds(ring, split, step)
    for step in (1000, 3):
        counting.fetched = 0
        ring.move_to(step)
        assert counting.fetched == size
        assert_holds(ring, split, step)


def test_the_same_step_and_a_ring_of_every_row_fetch_nothing(split: Split) -> None:
    ring, counting = ring_of(split, len(split.eligible()), 8)
    ring.move_to(4)
    counting.fetched = 0
    for step in (4, 5, 6):
        ring.move_to(step)
    assert counting.fetched == 0
    assert_holds(ring, split, 6)


def test_a_ring_is_float16_and_leaves_nothing_in_a_checkpoint(split: Split) -> None:
    ring, _ = ring_of(split, 10, 4)
    assert (ring.anchors.dtype, dict(ring.state_dict())) == (torch.float16, {})
