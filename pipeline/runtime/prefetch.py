"""Work of threads for a loop that is busy meanwhile, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    prepare: Callable[[Item], Made], items: Iterable[Item], threads: int, most: int
) -> Iterator[Made]:
    """prepare(item) for each item in order; at most so many of the next ones are made or waiting."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(prepare, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
