"""Writing a .beton with FFCV in a supervised process, because its writer waits forever for a worker that died."""

import math
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.durable import temporary_name
from pipeline.errors import PipelineError
from pipeline.images.beton_format import open_beton
from pipeline.images.examine import ExaminedImage, ExaminedImages, Findings, examine
from pipeline.images.fork_server import fork_server
from pipeline.images.kept_jpeg import KeptJpeg, kept_jpeg
from pipeline.images.scan import each_row, longest_side
from pipeline.images.sources import Source
from pipeline.runtime.progress import Progress
from pipeline.runtime.signals import StopRequest

# In `smart` mode an image with more bytes of pixels than this is stored as JPEG.
RAW_BYTES = 16 * 1024
PLACEHOLDER = np.full((32, 32, 3), 127, np.uint8)
CHUNK = 32  # images per task of a worker
SMALLEST_PAGE = 8 * 1024 * 1024
KILLED = "was killed by"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows as FFCV's writer indexes them: row -> (pixels (H, W, 3) uint8, row, label), gray if unreadable.

    In place of pixels it has a KeptJpeg where the file can be stored as it is. jpeg_above: bytes of pixels above which
    images are stored as JPEG. findings: what was found of the rows so far.
    """

    source: Source
    max_resolution: int
    jpeg_above: float
    findings: Findings

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8] | KeptJpeg, int, int]:
        found = examine(self.source, int(row))
        pixels = self._pixels(found)
        self.findings.add(int(row), found)
        return pixels, int(row), int(self.source.labels[row])

    def _pixels(self, found: ExaminedImage) -> NDArray[np.uint8] | KeptJpeg:
        if found.image is None:
            return PLACEHOLDER
        kept = kept_jpeg(found.data, self.max_resolution) if self.jpeg_above < math.inf else None
        if kept is not None and 3 * kept.width * kept.height > self.jpeg_above:
            return kept
        return np.asarray(reduced(found.image, self.max_resolution))


def reduced(image: Image.Image, longest: int) -> Image.Image:
    """Downscale an image by area averaging to a longer side of at most `longest`, as FFCV's max_resolution does.

    FFCV's own resizer crashes for an image so narrow that a side rounds to zero.
    """
    ratio = longest / max(image.size)
    if ratio >= 1:
        return image
    width, height = (max(1, int(side * ratio)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def write_beton(
    path: Path,
    source: Source,
    *,
    max_resolution: int,
    jpeg_quality: int,
    write_mode: str,
    workers: int,
    title: str,
) -> ExaminedImages:
    """Write a .beton with fields image, row and label, and read it back: sample i is row i.

    Every image is decoded once; returns what was found of them. FFCV runs in a process of its own, which can
    be ended and whose output stays off the terminal. Raises PipelineError when it or one of its workers dies, or the
    file is incomplete.
    """
    context = fork_server()
    jpeg_above = {"jpg": 0, "smart": RAW_BYTES}.get(write_mode, math.inf)
    field = {"write_mode": write_mode, "jpeg_quality": jpeg_quality, "smart_threshold": RAW_BYTES}
    page = page_size(largest(source, max_resolution, workers, title))
    workers = min(workers, math.ceil(len(source.names) / CHUNK))
    with (
        tempfile.NamedTemporaryFile("r", errors="replace") as log,
        _scratch_file(path.with_name(temporary_name("findings"))) as found,
    ):
        findings = Findings(found, len(source.names), context)
        rows = Rows(source=source, max_resolution=max_resolution, jpeg_above=jpeg_above, findings=findings)
        process = context.Process(target=_write, args=(path, rows, field, page, workers, log.name))
        # an interruption waits for the start: otherwise the fork server prints a traceback about its lost parent
        with StopRequest() as stop:
            process.start()
        try:
            if stop.wanted:
                raise KeyboardInterrupt
            _show_progress(process, findings, title)
        finally:
            _end(process)
        if process.exitcode:
            reason = _reason(log.read(), process.exitcode)
            near = _near(source, findings) if KILLED in reason else ""
            raise PipelineError(f"{title} failed{near}: {reason}")
        table = findings.table()
        assert table["done"].all()
        return ExaminedImages(table=table, reasons=findings.reasons)


@contextmanager
def _scratch_file(path: Path) -> Iterator[Path]:
    """Delete the file at the end; its name says whose it was, so that another `pack` deletes what a killed one left."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _near(source: Source, findings: Findings) -> str:
    """Return which image a killed process was at, or soon after, in words; "" if all were done."""
    undone = np.flatnonzero(~findings.table()["done"])
    return f" near row {undone[0]}, {source.names[undone[0]]}" if len(undone) else ""


def largest(source: Source, max_resolution: int, workers: int, title: str) -> int:
    """Return the longest side, in pixels, that an image of the .beton may have.

    Only where it decides the size of FFCV's pages are the images' headers read, to keep pages small.
    """
    if page_size(max_resolution) == SMALLEST_PAGE:
        return max_resolution
    found = max(each_row(longest_side, source, workers=workers, title=f"{title}: sizes"), default=0)
    return max(1, min(found, max_resolution))


def page_size(longest_side: int) -> int:
    """Return the power of two that holds a square image of this side twice: FFCV fails if an image does not fit."""
    return max(SMALLEST_PAGE, 1 << (6 * longest_side**2 - 1).bit_length())


def _show_progress(process: Any, findings: Findings, title: str) -> None:
    """Wait for the process, and show how many images are done."""
    with Progress(total=findings.rows, desc=title, unit=" images") as bar:
        while process.is_alive():
            process.join(0.1)
            bar.move_to(findings.collect())
        bar.move_to(findings.collect())


def _end(process: Any) -> None:
    process.terminate()
    process.join(2)
    process.kill()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _reason(log: str, exitcode: int) -> str:
    """Return the last line of the log, the exception of a traceback or the death of a worker; or the signal."""
    if exitcode < 0:
        return f"it {KILLED} {signal.Signals(-exitcode).name}; if memory ran out, use fewer workers"
    lines = [line for line in re.split(r"[\r\n]+", log) if line.strip()]
    return lines[-1].removeprefix("pipeline.errors.PipelineError: ") if lines else f"exit code {exitcode}"


def _write(path: Path, rows: Rows, field: dict[str, Any], page: int, workers: int, log: str) -> None:
    """Main function of the writer's process; exit code 0, or 1 with the reason in the last line of the log."""
    os.setsid()  # a process group, so that FFCV's workers can be ended with it
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that shared memory is released
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # otherwise each of FFCV's workers would import FFCV again
    multiprocessing.set_start_method("fork", force=True)
    writer = None
    try:
        import pipeline.ffcv_patches  # noqa: F401  # isort: skip  before FFCV

        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter

        fields = {"image": RGBImageField(**field), "row": IntField(), "label": IntField()}
        writer = DatasetWriter(str(path), fields, page_size=page, num_workers=workers)
        signal.signal(signal.SIGCHLD, _require_success)
        writer.from_indexed_dataset(rows, chunksize=CHUNK)
        check_beton(path, rows.source.labels)
    except BaseException as error:
        if not isinstance(error, WorkerFailed):
            traceback.print_exc()
        if isinstance(memory := getattr(writer, "metadata_sm", None), SharedMemory):
            memory.unlink()
        os._exit(1)  # a normal exit would wait for the workers


class WorkerFailed(Exception):
    """One of FFCV's workers died; the reason is in the log."""


def _require_success(signal_number: int, frame: Any) -> None:
    """SIGCHLD handler that raises WorkerFailed when a worker fails, since FFCV does not check its workers."""
    with suppress(ChildProcessError):
        while (end := os.waitpid(-1, os.WNOHANG))[0]:
            if os.WIFSIGNALED(end[1]):
                name = signal.Signals(os.WTERMSIG(end[1])).name
                print(f"\na worker {KILLED} {name}; if memory ran out, use fewer workers", flush=True)
            if end[1]:
                # so that the ends of other workers do not interrupt ours
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                raise WorkerFailed


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def check_beton(path: Path, labels: NDArray[np.int64]) -> None:
    """Read a .beton's tables as FFCV does and as the join guard does. Raises PipelineError."""
    from ffcv.reader import Reader

    Reader(str(path))
    open_beton(path, labels)
