"""The first look at every image, in worker processes: content hash, size, perceptual hash, what is wrong."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.images.decode import UnreadableImage, decode, perceptual_hash
from pipeline.images.sources import Source
from pipeline.runtime.signals import children_deaf_to_interrupts

CHUNK = 64  # images that a worker takes at a time
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one image is: hash of its bytes, size in pixels when upright, and why it cannot be used, if so."""

    sha256: bytes
    reason: str | None = None
    thumb: int = 0
    width: int = 0
    height: int = 0


def examine(source: Source, row: int) -> Found:
    """Read and decode one image; what is wrong with it becomes the reason. No bytes hash as empty ones."""
    try:
        data = source.read(row)
    except OSError as error:
        return Found(sha256=hashlib.sha256().digest(), reason=f"cannot be read: {error.strerror or error}")
    digest = hashlib.sha256(data).digest()
    try:
        image = decode(data)
    except UnreadableImage as error:
        return Found(sha256=digest, reason=str(error))
    return Found(sha256=digest, thumb=perceptual_hash(image), width=image.width, height=image.height)


def content_hash(source: Source, row: int) -> bytes:
    """The sha256 that `examine` finds, without decoding."""
    try:
        return hashlib.sha256(source.read(row)).digest()
    except OSError:
        return hashlib.sha256().digest()


def over_rows(task: Callable[[Source, int], T], source: Source, *, workers: int, title: str) -> list[T]:
    """task(source, row) of every row, in order, computed by `workers` processes behind a progress bar.

    Raises PipelineError when a process is killed, and whatever the task raises.
    """
    rows = len(source.names)
    chunks = [range(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK)]
    results: list[T] = []
    try:
        with (
            ProcessPoolExecutor(
                min(workers, len(chunks)), multiprocessing.get_context("spawn"), _begin, (task, source)
            ) as pool,
            tqdm(total=rows, desc=title, unit=" images") as bar,
        ):
            with children_deaf_to_interrupts():
                found = pool.map(_run_chunk, chunks)  # starts the processes
            for chunk in found:
                results += chunk
                bar.update(len(chunk))
    except BrokenProcessPool as error:
        raise PipelineError(
            f"{title}: a process was killed at row {len(results)}, {source.names[len(results)]}, or soon "
            "after; if memory ran out, run this again with fewer workers"
        ) from error
    return results


_job: Any = None  # the worker's (task, source): set once, as a source of a million names is slow to send


def _begin(task: Callable[[Source, int], T], source: Source) -> None:
    global _job
    _job = task, source
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_chunk(rows: range) -> list[Any]:
    task, source = _job
    return [task(source, row) for row in rows]
