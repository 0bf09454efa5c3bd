"""A task for every image in worker processes, such as hashing its bytes."""

import hashlib
import io
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.decode import FORMATS, quiet_pil
from pipeline.images.sources import NO_BYTES, Source
from pipeline.runtime.progress import Progress
from pipeline.runtime.signals import children_ignore_interrupts

CHUNK = 64  # images per task of a worker
T = TypeVar("T")


def content_hash(source: Source, row: int) -> bytes:
    """Return the sha256 that `examine` finds, without decoding."""
    try:
        return hashlib.sha256(source.read(row)).digest()
    except OSError:
        return NO_BYTES


def longest_side(source: Source, row: int) -> int:
    """Return the longer side of an image in pixels, from its header; 0 if it is unreadable."""
    quiet_pil()
    try:
        with Image.open(io.BytesIO(source.read(row)), formats=FORMATS) as image:
            return max(image.size)
    except Exception:
        # PIL's plugins raise anything for a broken file; its reason is found when it is decoded
        return 0


def content_hashes(source: Source, *, workers: int, title: str) -> NDArray[np.uint8]:
    """Return the sha256 of every image's bytes, (N, 32). Raises as `each_row`."""
    found = np.zeros((len(source.names), 32), np.uint8)
    for row, digest in enumerate(each_row(content_hash, source, workers=workers, title=title)):
        found[row] = np.frombuffer(digest, np.uint8)
    return found


def each_row(task: Callable[[Source, int], T], source: Source, *, workers: int, title: str) -> Iterator[T]:
    """Yield task(source, row) for every row, in order, computed by `workers` processes with a progress bar.

    Raises PipelineError when a process is killed, and any error of the task.
    """
    rows, done = len(source.names), 0
    chunks = [range(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK)]
    try:
        with (
            ProcessPoolExecutor(
                min(workers, len(chunks)), multiprocessing.get_context("spawn"), _begin, (task, source)
            ) as pool,
            Progress(total=rows, desc=title, unit=" images") as bar,
        ):
            with children_ignore_interrupts():
                found = pool.map(_run_chunk, chunks)  # starts the processes
            for chunk in found:
                yield from chunk
                done += len(chunk)
                bar.update(len(chunk))
    except BrokenProcessPool as error:
        raise PipelineError(
            f"{title}: a process was killed at row {done}, {source.names[done]}, or soon "
            "after; if memory ran out, run this again with fewer workers"
        ) from error


_job: Any = None  # the worker's (task, source), sent once because a source of a million names is large


def _begin(task: Callable[[Source, int], T], source: Source) -> None:
    global _job
    _job = task, source
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit with the parent: a worker whose parent was killed would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_chunk(rows: range) -> list[Any]:
    task, source = _job
    return [task(source, row) for row in rows]
