"""What the chunks under way in one worker share: decoding threads, one thread of forward passes, and the disk."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from cache.errors import StoreError

Item = TypeVar("Item")
Result = TypeVar("Result")


class ChunkPipeline:
    """Lets a worker compute chunk after chunk without a pause between two.

    The images of the next chunk are decoded while the last batches of this one are in the forward pass, and its
    batches are computed while this one is written. Each chunk is computed by a thread of its own, which calls
    `prefetch`, `run` and `write`.
    """

    def __init__(self, device: torch.device, *, threads: int, ahead: int) -> None:
        """threads: decoding threads, and as many for PyTorch. ahead: images prepared or in progress, of all chunks."""
        self.decoders = ThreadPoolExecutor(threads)
        # always the same thread: cuDNN keeps its plans per thread, and OpenMP its team
        self.computer = ThreadPoolExecutor(1, initializer=_start_computing, initargs=(device, threads))
        self.places = threading.Semaphore(ahead)
        self.turn, self.disk = threading.Lock(), threading.Lock()
        self.refusal: StoreError | None = None

    def prefetch(
        self, prepare: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[Result, None, None]:
        """Yield prepare(item) for each item in order. A chunk's turn comes when all items of the one before have begun.

        Close the iterator (see contextlib.closing) to give back what was not taken.
        """
        pending = deque[Future[Result]]()
        try:
            with self.turn:
                for item in items:
                    while not self.places.acquire(blocking=not pending):
                        yield self._take(pending)
                    pending.append(self.decoders.submit(prepare, item))
            while pending:
                yield self._take(pending)
        finally:
            for future in pending:
                future.cancel()
                self.places.release()

    def _take(self, pending: deque[Future[Result]]) -> Result:
        future = pending.popleft()
        try:
            return future.result()
        finally:
            self.places.release()

    def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call the function in the thread that runs all forward passes, and return its result."""
        return self.computer.submit(function, *arguments).result()

    def write(self, function: Callable[..., None], *arguments: object) -> None:
        """Call the function that writes a chunk. After a StoreError, no chunk that was under way is tried."""
        with self.disk:
            if self.refusal:
                raise StoreError(str(self.refusal))
            try:
                function(*arguments)
            except StoreError as error:
                self.refusal = error
                raise


def _start_computing(device: torch.device, threads: int) -> None:
    torch.set_num_threads(threads)
    if device.type != "cpu":
        torch.cuda.set_device(device)  # of this thread, for networks that name no device
