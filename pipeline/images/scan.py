"""The scan of all images in worker processes: content hash, size, perceptual hash, or why one is unreadable."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.images.decode import UnreadableImage, decode, is_nearly_black, perceptual_hash
from pipeline.images.sources import Source
from pipeline.runtime.progress import Progress
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


@dataclass(frozen=True, kw_only=True)
class ScannedImages:
    """What `examine` found of N images, in 49 bytes an image.

    sha256 (N, 32) uint8, thumb (N,) uint64, size (N, 2) int32: width and height, nearly_black (N,) bool. reasons: of
    unreadable images, by row.
    """

    sha256: NDArray[np.uint8]
    thumb: NDArray[np.uint64]
    size: NDArray[np.int32]
    nearly_black: NDArray[np.bool_]
    reasons: dict[int, str]


def scan(source: Source, *, workers: int, title: str) -> ScannedImages:
    """Examine every image in worker processes. Raises as `each_row`."""
    rows = len(source.names)
    found = ScannedImages(
        sha256=np.zeros((rows, 32), np.uint8),
        thumb=np.zeros(rows, np.uint64),
        size=np.zeros((rows, 2), np.int32),
        nearly_black=np.zeros(rows, bool),
        reasons={},
    )
    for row, image in enumerate(each_row(examine, source, workers=workers, title=title)):
        found.sha256[row] = np.frombuffer(image.sha256, np.uint8)
        found.thumb[row], found.size[row] = image.thumb, (image.width, image.height)
        found.nearly_black[row] = image.nearly_black
        if image.reason is not None:
            found.reasons[row] = image.reason
    return found


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
