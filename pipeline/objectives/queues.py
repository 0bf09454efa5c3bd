"""Queues of anchors on the device: the teacher's embeddings (1q), and the student's keys (2q).

Anchors are in slots 0..K-1. A table from rows to slots finds a query's own row among them.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split

EMPTY = -1
ROWS_PER_FETCH = 4096


class Slots(nn.Module):
    """Which row is in which of `size` slots. rows: int64 (size,), EMPTY for an unused slot."""

    rows: Tensor
    slot_of_row: Tensor

    def __init__(self, size: int, split_rows: int, *, saved: bool) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("rows", torch.full((size,), EMPTY), persistent=saved)
        # one entry more than the split has rows: EMPTY indexes the last, which stays EMPTY
        table = torch.full((split_rows + 1,), EMPTY, dtype=torch.int32)
        self.register_buffer("slot_of_row", table, persistent=False)

    def slots_of(self, rows: Tensor) -> Tensor:
        """Return the slots of rows (B,): int64 (B,), -1 for rows without one."""
        return self.slot_of_row[rows.to(self.rows.device)].long()

    def place(self, slots: Tensor, rows: Tensor) -> None:
        """Put rows (n,) into distinct slots (n,), replacing what was there."""
        self.slot_of_row[self.rows[slots]] = EMPTY
        self.rows[slots] = rows
        self.slot_of_row[rows] = slots.to(self.slot_of_row.dtype)


class AnchorQueue(Slots):
    """The teacher's embeddings of an AnchorWindow, on the device. It saves no state: the step determines it.

    anchors: (K, Dt), float16 as cached; if `centered`, bfloat16 minus `origin`, float32 (Dt,), the mean of the first
    rows of step 0. A softmax over anchors and its gradient do not change when all anchors are translated. bfloat16
    rounding does: it keeps eight bits, and a network's embeddings share most of their length.
    """

    anchors: Tensor
    origin: Tensor | None

    def __init__(self, split: Split, window: AnchorWindow, *, centered: bool = False) -> None:
        super().__init__(window.size, split.shape.rows, saved=False)
        self.split = split
        self.window = window
        dtype = torch.bfloat16 if centered else torch.float16
        origin = mean_of(split, window.rows_at(0)[:ROWS_PER_FETCH]) if centered else None
        self.register_buffer("origin", origin, persistent=False)
        self.step: int | None = None
        self.register_buffer(
            "anchors", torch.zeros(window.size, split.shape.dim, dtype=dtype), persistent=False
        )

    def move_to(self, step: int) -> None:
        """Hold the anchors of a step. From the step before, only the anchors that enter are fetched."""
        if step == self.step:
            return
        if self.step is not None and step == self.step + 1:
            slots, rows = map(torch.from_numpy, self.window.entering(step))
        else:
            slots, rows = torch.arange(self.size), torch.from_numpy(self.window.rows_at(step))
        fetch(self.split, slots, rows, self.anchors, self.origin)
        self.place(slots.to(self.rows.device), rows.to(self.rows.device))
        self.step = step

    def center(self, embedding: Tensor) -> Tensor:
        """Return embeddings (B, Dt) in the space of the anchors: minus the origin, if there is one."""
        return embedding if self.origin is None else embedding.float() - self.origin


class KeyQueue(Slots):
    """A queue of the student's keys and, in the same slots, the teacher's embeddings. It starts empty.

    keys: (K, D), float32 or `dtype`. teacher: (K, Dt), float16; fetched again from the cache on resume, or saved if
    `live`, as a cache does not hold a live teacher's embeddings of crops.
    The first `filled` slots are in use. A new row takes the next slot; once the queue is full, that of the oldest row.
    A row seen again gets its new key in place and keeps its age.
    """

    keys: Tensor
    teacher: Tensor

    def __init__(
        self, split: Split, size: int, dim: int, *, dtype: torch.dtype = torch.float32, live: bool = False
    ) -> None:
        super().__init__(size, split.shape.rows, saved=True)
        self.split, self.live = split, live
        self.position = 0  # of the next new row, ever growing: its slot is position % size
        self.register_buffer("keys", torch.zeros(size, dim, dtype=dtype))
        teacher = torch.zeros(size, split.shape.dim, dtype=torch.float16)
        self.register_buffer("teacher", teacher, persistent=live)
        self.register_load_state_dict_post_hook(KeyQueue._restore)

    @property
    def filled(self) -> int:
        """The number of slots in use."""
        return min(self.position, self.size)

    @torch.no_grad()
    def enqueue(self, rows: Tensor, keys: Tensor, teacher: Tensor) -> None:
        """Add rows (B,) int64 with their keys (B, D) and the teacher's embeddings (B, Dt).

        Rows already in the queue get their new keys; then the new rows get slots, in the batch's order. If a row
        occurs twice, its last occurrence counts. If there are more new rows than slots, the last `size` count.
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

    def _restore(self, incompatible_keys: object) -> None:
        """Recompute what is not saved, after loading a state."""
        slots = torch.arange(self.filled)
        rows = self.rows[: self.filled]
        self.slot_of_row.fill_(EMPTY)
        self.slot_of_row[rows] = slots.to(self.slot_of_row)
        if not self.live:
            fetch(self.split, slots, rows.cpu(), self.teacher)


def fetch(split: Split, slots: Tensor, rows: Tensor, out: Tensor, origin: Tensor | None = None) -> None:
    """Copy the cached embeddings of rows (n,) into slots (n,) of `out` (K, Dt), a few thousand at a time.

    origin: float32 (Dt,), subtracted from each.
    """
    for some_slots, some_rows in zip(slots.split(ROWS_PER_FETCH), rows.split(ROWS_PER_FETCH), strict=True):
        embeddings = torch.from_numpy(split.gather(some_rows.numpy())).to(out.device)
        if origin is not None:
            embeddings = embeddings.float() - origin
        out[some_slots.to(out.device)] = embeddings.to(out)


def mean_of(split: Split, rows: NDArray[np.int64]) -> Tensor:
    """Return the mean of the cached embeddings of rows (n,): float32 (Dt,)."""
    return torch.from_numpy(split.gather(rows)).double().mean(0).float()


def last_of_each(rows: Tensor) -> Tensor:
    """Return the index of the last occurrence of each distinct row of (B,), ascending."""
    distinct, inverse = torch.unique(rows, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    return torch.zeros_like(distinct).scatter_reduce_(0, inverse, places, "amax").sort().values
