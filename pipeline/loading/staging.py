"""Copies of batches to a CUDA device, and of results back, through pinned buffers.

An asynchronous copy reads its source after the call has returned. FFCV overwrites the buffers of a batch once the next
batch is requested, so a batch is first copied on the CPU into buffers of its own. Two events keep the order:

- on the device: the stream that computes waits for the stream that copies before it reads a batch;
- on the CPU: a buffer is filled again only after the copy out of it has ended.
"""

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SLOTS = 3  # one is being filled while the copies out of the others are under way


class PinnedStaging:
    """Copies batches of at most `rows` rows to a CUDA device, without waiting for the copies to end."""

    def __init__(self, device: torch.device, rows: int) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.slots = cycle([Slot(rows) for _ in range(SLOTS)])

    def to_device(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return copies on the device of CPU tensors (B, ...), which may be overwritten at once.

        Dtypes and shapes after the first dimension are the same in every call. The copies can be used on the current
        stream.
        """
        slot = next(self.slots)
        staged = slot.fill(tensors)
        with torch.cuda.stream(self.stream):
            copies = [
                torch.empty_like(source, device=self.device).copy_(source, non_blocking=True)
                for source in staged
            ]
            slot.copied.record(self.stream)
        user = torch.cuda.current_stream(self.device)
        user.wait_event(slot.copied)
        for copy in copies:
            # its memory belongs to the copying stream, which would otherwise reuse it while `user` still reads
            copy.record_stream(user)
        return tuple(copies)


class Slot:
    """Pinned buffers for one batch. copied: the event after the last copy out of them."""

    def __init__(self, rows: int) -> None:
        self.rows, self.buffers = rows, list[Tensor]()
        # blocking: while it waits, the core is free for a decoding thread
        self.copied = torch.cuda.Event(blocking=True)

    def fill(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Wait until the buffers are free, copy tensors (B, ...) into them, and return the filled parts (B, ...)."""
        if not self.buffers:
            self.buffers = [pinned((self.rows, *tensor.shape[1:]), tensor.dtype) for tensor in tensors]
        self.copied.synchronize()
        filled = [buffer[: len(tensor)] for buffer, tensor in zip(self.buffers, tensors, strict=True)]
        for part, tensor in zip(filled, tensors, strict=True):
            part.copy_(tensor)
        return filled


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialized tensor in pinned memory, from which the device copies by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def start_fetch(result: Tensor) -> Callable[[], NDArray[np.float32]]:
    """Start to copy a float32 tensor from its device, and return the function that waits for it and returns it."""
    if result.device.type == "cpu":
        return result.numpy
    fetched = pinned(tuple(result.shape), result.dtype).copy_(result, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)
    copied.record(torch.cuda.current_stream(result.device))

    def wait() -> NDArray[np.float32]:
        copied.synchronize()
        return fetched.numpy()

    return wait
