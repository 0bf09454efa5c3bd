"""The scan of all images in worker processes: content hash, size, perceptual hash, or why one is unreadable."""

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
from pipeline.images.decode import UnreadableImage, decode, is_nearly_black, perceptual_hash
from pipeline.images.sources import Source
from pipeline.runtime.signals import children_ignore_interrupts

CHUNK = 64  # images per task of a worker
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedImage:
    """An image: sha256 of its bytes, perceptual hash, upright size in pixels, and why it is unreadable, if so.

    nearly_black: of its 16 bits, only the lowest 12 are used.
    """

    sha256: bytes
    reason: str | None = None
    thumb: int = 0
    width: int = 0
    height: int = 0
    nearly_black: bool = False


def examine(source: Source, row: int) -> ScannedImage:
    """Read and decode an image; an error becomes the reason. An image that cannot be read has the hash of no bytes."""
    try:
        data = source.read(row)
    except OSError as error:
        return ScannedImage(
            sha256=hashlib.sha256().digest(), reason=f"cannot be read: {error.strerror or error}"
        )
    digest = hashlib.sha256(data).digest()
    try:
        image = decode(data)
    except UnreadableImage as error:
        return ScannedImage(sha256=digest, reason=str(error))
    return ScannedImage(
        sha256=digest,
        thumb=perceptual_hash(image),
        width=image.width,
        height=image.height,
        nearly_black=is_nearly_black(data),
    )


def content_hash(source: Source, row: int) -> bytes:
    """Return the sha256 that `examine` finds, without decoding."""
    try:
        return hashlib.sha256(source.read(row)).digest()
    except OSError:
        return hashlib.sha256().digest()


def map_rows(task: Callable[[Source, int], T], source: Source, *, workers: int, title: str) -> list[T]:
    """Return task(source, row) for every row, in order, computed by `workers` processes with a progress bar.

    Raises PipelineError when a process is killed, and any error of the task.
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
            with children_ignore_interrupts():
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
