"""Anchors on the device: a ring of the teacher's rows (1q), and a bank of the student's own keys (2q).

Anchors stand in slots 0..K-1. A query's own row is found among them by a table from rows to slots.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split

EMPTY = -1
ROWS_A_FETCH = 4096


class Slots(nn.Module):
    """Which row stands in which of `size` slots: rows (size,) int64, EMPTY where none does."""

    rows: Tensor
    slot_of_row: Tensor

    def __init__(self, size: int, split_rows: int, *, saved: bool) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("rows", torch.full((size,), EMPTY), persistent=saved)
        # One entry more than rows: EMPTY indexes the last, which stays EMPTY.
        table = torch.full((split_rows + 1,), EMPTY, dtype=torch.int32)
        self.register_buffer("slot_of_row", table, persistent=False)

    def slots_of(self, rows: Tensor) -> Tensor:
        """The slots (B,) int64 of rows (B,), -1 for those that stand in none."""
        return self.slot_of_row[rows.to(self.rows.device)].long()

    def place(self, slots: Tensor, rows: Tensor) -> None:
        """Put rows (n,) into slots (n,), each distinct; what stood there leaves."""
        self.slot_of_row[self.rows[slots]] = EMPTY
        self.rows[slots] = rows
        self.slot_of_row[rows] = slots.to(self.slot_of_row.dtype)


class AnchorQueue(Slots):
    """The teacher's embeddings of an AnchorWindow, on the device. Nothing is saved: the step says it all.

    anchors: (K, Dt) float16 as cached, or, if `centred`, bfloat16 less `origin` (Dt,) float32, the mean of the first
    rows of step 0. A softmax over anchors and its gradient do not see what all of them are moved by, but
    bfloat16 does: it rounds to eight bits, and a network's features have most of their length in common.
    """

    anchors: Tensor
    origin: Tensor | None

    def __init__(self, split: Split, window: AnchorWindow, *, centred: bool = False) -> None:
        super().__init__(window.size, split.shape.rows, saved=False)
        self.split = split
        self.window = window
        dtype = torch.bfloat16 if centred else torch.float16
        origin = mean_of(split, window.rows_at(0)[:ROWS_A_FETCH]) if centred else None
        self.register_buffer("origin", origin, persistent=False)
        self.step: int | None = None
        self.register_buffer(
            "anchors", torch.zeros(window.size, split.shape.dim, dtype=dtype), persistent=False
        )

    def move_to(self, step: int) -> None:
        """Hold `window.rows_at(step)`: from the step before, only what enters is fetched."""
        if step == self.step:
            return
        if self.step is not None and step == self.step + 1:
            slots, rows = map(torch.from_numpy, self.window.entering(step))
        else:
            slots, rows = torch.arange(self.size), torch.from_numpy(self.window.rows_at(step))
        fetch(self.split, slots, rows, self.anchors, self.origin)
        self.place(slots.to(self.rows.device), rows.to(self.rows.device))
        self.step = step


class KeyQueue(Slots):
    """The student's keys and, in the same slots, the teacher's embeddings of the same rows. It starts empty.

    keys: (K, D) float32, or `dtype`. teacher: (K, Dt) float16, not saved but fetched again from the cache, unless
    `live`: what a live teacher said of its crops is in no cache.
    The first `filled` slots are in use. A new row takes the next slot, in the end that of the oldest row; a
    row that is seen again gets its new key where it stands and grows no younger.
    """

    keys: Tensor
    teacher: Tensor

    def __init__(
        self, split: Split, size: int, dim: int, *, dtype: torch.dtype = torch.float32, live: bool = False
    ) -> None:
        super().__init__(size, split.shape.rows, saved=True)
        self.split, self.live = split, live
        self.position = 0  # of the next new row, counted without end: its slot is position % size
        self.register_buffer("keys", torch.zeros(size, dim, dtype=dtype))
        teacher = torch.zeros(size, split.shape.dim, dtype=torch.float16)
        self.register_buffer("teacher", teacher, persistent=live)
        self.register_load_state_dict_post_hook(KeyQueue._derive)

    @property
    def filled(self) -> int:
        """How many slots are in use."""
        return min(self.position, self.size)

    @torch.no_grad()
    def enqueue(self, rows: Tensor, keys: Tensor, teacher: Tensor) -> None:
        """Take in rows (B,) int64 with their keys (B, D) and the teacher's embeddings (B, Dt).

        First the rows seen before get their new keys, then the new rows their slots, in the batch's order.
        Of a row that is there twice the last counts; of more new rows than slots, the last `size`.
        """
        rows = rows.to(self.rows.device)
        last = last_of_each(rows)
        slots = self.slots_of(rows[last])
        seen, new = last[slots != EMPTY], last[slots == EMPTY]
        self._write(slots[slots != EMPTY], keys[seen], teacher[seen])
        slots = (self.position + torch.arange(len(new), device=rows.device)) % self.size
        self.position += len(new)
        slots, new = slots[-self.size :], new[-self.size :]
        self.place(slots, rows[new])
        self._write(slots, keys[new], teacher[new])

    def _write(self, slots: Tensor, keys: Tensor, teacher: Tensor) -> None:
        self.keys[slots] = keys.to(self.keys.dtype)
        self.teacher[slots] = teacher.to(self.teacher.dtype)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.position)

    def set_extra_state(self, state: Tensor) -> None:
        self.position = int(state)

    def _derive(self, incompatible_keys: object) -> None:
        """Compute what is not saved from what was just loaded."""
        slots = torch.arange(self.filled)
        rows = self.rows[: self.filled]
        self.slot_of_row.fill_(EMPTY)
        self.slot_of_row[rows] = slots.to(self.slot_of_row)
        if not self.live:
            fetch(self.split, slots, rows.cpu(), self.teacher)


def fetch(split: Split, slots: Tensor, rows: Tensor, out: Tensor, origin: Tensor | None = None) -> None:
    """Copy the cached embeddings of rows (n,) into slots (n,) of `out` (K, Dt), a few thousand at a time.

    origin: float32 (Dt,), what is taken off each.
    """
    for some_slots, some_rows in zip(slots.split(ROWS_A_FETCH), rows.split(ROWS_A_FETCH), strict=True):
        embeddings = torch.from_numpy(split.gather(some_rows.numpy())).to(out.device)
        if origin is not None:
            embeddings = embeddings.float() - origin
        out[some_slots.to(out.device)] = embeddings.to(out)


def mean_of(split: Split, rows: NDArray[np.int64]) -> Tensor:
    """The mean (Dt,) float32 of the cached embeddings of rows (n,)."""
    return torch.from_numpy(split.gather(rows)).double().mean(0).float()


def last_of_each(rows: Tensor) -> Tensor:
    """Where each distinct row of rows (B,) occurs last, in ascending order."""
    distinct, which = torch.unique(rows, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    return torch.zeros_like(distinct).scatter_reduce_(0, which, places, "amax").sort().values
