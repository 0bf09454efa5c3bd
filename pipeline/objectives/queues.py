"""Queues of anchors on the device: the teacher's embeddings (1q), and the student's keys (2q).

Anchors are in slots 0..K-1. A table from rows to slots finds a query's own row among them.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.objectives.objective import staged, to_device
from pipeline.objectives.shards import gather_slots, slots_of_rank

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
        """Return the slots of rows: int64 of the same shape, -1 for rows without one."""
        return self.slot_of_row[rows.to(self.rows.device)].long()

    def place(self, slots: Tensor, rows: Tensor) -> None:
        """Put rows (n,) into slots (n,), replacing what was there. A slot that occurs twice has the same row twice."""
        self.slot_of_row[self.rows[slots]] = EMPTY
        self.rows[slots] = rows
        self.slot_of_row[rows] = slots.to(self.slot_of_row.dtype)


class AnchorQueue(Slots):
    """The teacher's embeddings of this rank's slots of an AnchorWindow, on the device: all K slots with one rank.

    It saves no state: the step determines it. Slots are counted from this rank's first. A thread reads the anchors
    that enter at the next step, while this step goes on.

    total: number of anchors on all ranks. anchors: (slots, Dt), float16 as cached; if `centered`, bfloat16 minus
    `origin`, float32 (Dt,), the mean of the window's first rows at step 0. A softmax over anchors and its gradient do
    not change when all anchors are translated. bfloat16 rounding does: it keeps eight bits, and a network's embeddings
    share most of their length.
    """

    anchors: Tensor
    origin: Tensor | None
    counts = None  # each anchor stands for itself

    def __init__(self, split: Split, window: AnchorWindow, *, centered: bool = False) -> None:
        self.held = slots_of_rank(window.size)
        super().__init__(len(self.held), split.shape.rows, saved=False)
        self.split = split
        self.window, self.total = window, window.size
        dtype = torch.bfloat16 if centered else torch.float16
        origin = mean_of(split, window.rows_at(0)[:ROWS_PER_FETCH]) if centered else None
        self.register_buffer("origin", origin, persistent=False)
        self.step: int | None = None
        self.reader = ThreadPoolExecutor(1)
        self.entering: Future[Tensor] | None = None
        self.register_buffer(
            "anchors", torch.zeros(self.size, split.shape.dim, dtype=dtype), persistent=False
        )

    def move_to(self, step: int) -> None:
        """Hold the anchors of a step. From the step before, only the anchors that enter are fetched."""
        if step == self.step:
            return
        if self.entering is not None and step - 1 == self.step:
            slots, rows = self.held_here(*self.window.entering(step))
            put(self.entering.result(), slots, self.anchors, self.origin)
        else:
            slots, rows = self.held_here(np.arange(self.window.size), self.window.rows_at(step))
            fetch(self.split, slots, rows, self.anchors, self.origin)
        self.place(to_device(slots, self.rows.device), to_device(rows, self.rows.device))
        self.step = step
        _, rows = self.held_here(*self.window.entering(step + 1))
        self.entering = self.reader.submit(read, self.split, rows, self.anchors.device)

    def held_here(
        self, slots: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return those of slots and rows (n,) that this rank holds, slots counted from its first."""
        is_held = (slots >= self.held.start) & (slots < self.held.stop)
        return slots[is_held] - self.held.start, rows[is_held]

    def center(self, embedding: Tensor) -> Tensor:
        """Return embeddings (B, Dt) in the space of the anchors: minus the origin, if there is one."""
        return embedding if self.origin is None else embedding.float() - self.origin


class KeyQueue(Slots):
    """A queue of the student's keys and, in the same slots, the teacher's embeddings. It starts empty.

    keys: (K, D), float32. teacher: (K, Dt), float16; fetched again from the cache on resume, or saved if
    `live`, as a cache does not hold a live teacher's embeddings of crops.
    The first `filled` slots are in use. A new row takes the next slot; once the queue is full, that of the oldest row.
    A row seen again gets its new key in place and keeps its age.

    With several ranks, each keeps the rows of all slots, but the keys and embeddings of `held` only, its own slots. All
    ranks must then call state_dict together: it gathers the keys of all slots.
    """

    held_keys: Tensor
    held_teacher: Tensor
    position: Tensor

    def __init__(self, split: Split, size: int, dim: int, *, live: bool = False) -> None:
        super().__init__(size, split.shape.rows, saved=True)
        self.split, self.live = split, live
        # of the next new row, ever growing: its slot is position % size
        self.register_buffer("position", torch.tensor(0), persistent=False)
        self.is_full = False
        self.held = slots_of_rank(size)
        # one row more than there are slots: it takes what belongs into the slots of other ranks
        count = len(self.held) + 1
        self.register_buffer("held_keys", torch.zeros(count, dim), persistent=False)
        teacher = torch.zeros(count, split.shape.dim, dtype=torch.float16)
        self.register_buffer("held_teacher", teacher, persistent=False)
        self.register_state_dict_post_hook(KeyQueue._save)
        self.register_load_state_dict_pre_hook(KeyQueue._load)
        self.register_load_state_dict_post_hook(KeyQueue._restore)

    @property
    def keys(self) -> Tensor:
        """The keys of this rank's slots."""
        return self.held_keys[:-1]

    @property
    def teacher(self) -> Tensor:
        """The teacher's embeddings of this rank's slots."""
        return self.held_teacher[:-1]

    @property
    def filled(self) -> int:
        """The number of slots in use, read from the device until all are."""
        if self.is_full:
            return self.size
        position = int(self.position)
        self.is_full = position >= self.size
        return min(position, self.size)

    @torch.no_grad()
    def enqueue(self, rows: Tensor, keys: Tensor, teacher: Tensor) -> None:
        """Add rows (B,) int64 with their keys (B, D) and the teacher's embeddings (B, Dt).

        Rows already in the queue get their new keys; then the new rows get slots, in the batch's order. If a row
        occurs twice, its last occurrence counts. If there are more new rows than slots, the last `size` count.
        """
        # no shape depends on the rows, or the CPU would wait for the device
        rows = rows.to(self.rows.device)
        # new rows last, as they may take the slots of rows seen again
        order = (self.slots_of(rows) == EMPTY).long().argsort(stable=True)
        rows = rows[order]
        slots, last = self.slots_of(rows), last_occurrence(rows)
        is_new = (slots == EMPTY) & (last == torch.arange(len(rows), device=rows.device))
        new_slots = (self.position + is_new.cumsum(0)[last] - 1) % self.size
        slots = torch.where(slots == EMPTY, new_slots, slots)
        self.position += is_new.sum()
        # rows of one slot all write what its last row writes
        writer = last_occurrence(slots)
        self.place(slots, rows[writer])
        is_held = (slots >= self.held.start) & (slots < self.held.stop)
        slots = torch.where(is_held, slots - self.held.start, len(self.held))
        self.held_keys[slots] = keys[order[writer]].to(self.keys.dtype)
        self.held_teacher[slots] = teacher[order[writer]].to(self.teacher.dtype)

    def get_extra_state(self) -> Tensor:
        return self.position.cpu().clone()

    def set_extra_state(self, state: Tensor) -> None:
        self.position.fill_(int(state))
        self.is_full = False

    def _save(self, state: dict[str, Any], prefix: str, metadata: object) -> None:
        for name in self._saved():
            state[prefix + name] = gather_slots(getattr(self, name), self.size)

    def _load(self, state: dict[str, Any], prefix: str, *_: object) -> None:
        for name in self._saved():
            saved = state.pop(prefix + name)
            getattr(self, name).copy_(saved[self.held.start : self.held.stop])

    def _saved(self) -> list[str]:
        return ["keys", "teacher"] if self.live else ["keys"]

    def _restore(self, incompatible_keys: object) -> None:
        """Recompute what is not saved, after loading a state."""
        slots = torch.arange(self.filled, device=self.rows.device)
        self.slot_of_row.fill_(EMPTY)
        self.slot_of_row[self.rows[: self.filled]] = slots.to(self.slot_of_row.dtype)
        if not self.live:
            rows = self.rows[self.held.start : min(self.filled, self.held.stop)].cpu().numpy()
            fetch(self.split, np.arange(len(rows)), rows, self.teacher)


def fetch(
    split: Split,
    slots: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: Tensor,
    origin: Tensor | None = None,
) -> None:
    """Copy the cached embeddings of rows (n,) into slots (n,) of `out` (K, Dt), a few thousand at a time.

    origin: float32 (Dt,), subtracted from each.
    """
    for start in range(0, len(rows), ROWS_PER_FETCH):
        part = slice(start, start + ROWS_PER_FETCH)
        put(read(split, rows[part], out.device), slots[part], out, origin)


def read(split: Split, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return the cached embeddings of rows (n,), ready to be copied to a device: float16 (n, Dt) on the CPU."""
    return staged(split.gather(rows), device)


def put(embeddings: Tensor, slots: NDArray[np.int64], out: Tensor, origin: Tensor | None) -> None:
    """Copy embeddings (n, Dt) from `read`, minus `origin` if given, into slots (n,) of `out` (K, Dt)."""
    embeddings = embeddings.to(out.device, non_blocking=True)
    if origin is not None:
        embeddings = embeddings.float() - origin
    out[to_device(slots, out.device)] = embeddings.to(out.dtype)


def mean_of(split: Split, rows: NDArray[np.int64]) -> Tensor:
    """Return the mean of the cached embeddings of rows (n,): float32 (Dt,)."""
    return torch.from_numpy(split.gather(rows)).double().mean(0).float()


def last_occurrence(values: Tensor) -> Tensor:
    """Return the index of the last occurrence of each value of (B,): int64 (B,)."""
    ordered, indices = values.sort(stable=True)
    return indices[torch.searchsorted(ordered, values, right=True) - 1]
