"""Files on their way: several at a time, with one bar in bytes, and one process of this machine at a time."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from cache.lock import waited_for
from pipeline.results.plain_text import human_bytes
from pipeline.runtime.progress import Progress

AT_ONCE = 8

T = TypeVar("T")
R = TypeVar("R")


def alone(folder: Path, waiting: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
    """Hold the lock of a local copy. `waiting` is called once if another process has it, which is waited for."""
    return waited_for(folder.with_name(f".{folder.name}.lock"), waiting)


class ByteBar:
    """A progress bar in bytes that several threads move."""

    def __init__(self, verb: str, total: int, shown: bool = True) -> None:
        self.lock, self.moved, self.start = threading.Lock(), 0, time.monotonic()
        self.bar = Progress(
            total=total,
            desc=verb,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            disable=not shown,
        )

    def move(self, count: int) -> None:
        """Add bytes; below 0, those of a try that failed."""
        with self.lock:
            self.moved += count
            self.bar.update(count)

    def close(self) -> str:
        """Remove the bar, and return what was moved, in words."""
        self.bar.close()
        return f"{human_bytes(self.moved)} in {time.monotonic() - self.start:,.1f} s"


def each(task: Callable[[T], R], items: Iterable[T], stop: threading.Event | None = None) -> Iterator[R]:
    """Yield task(item) for each item as they finish, several at a time. After an error no further one begins.

    stop: set then, for those that have begun, which are waited for.
    """
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        pending = {pool.submit(task, item) for item in items}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        if stop:
            stop.set()
        pool.shutdown(wait=stop is not None, cancel_futures=True)
