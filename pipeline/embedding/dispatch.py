"""Chunks over dask workers: scheduling, retries and the progress bar."""

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future, KilledWorker, as_completed, get_worker
from tqdm import tqdm

from cache.errors import StoreError
from cache.layout import Status
from pipeline.embedding.tasks import Chunk, Job, embed_chunk
from pipeline.errors import PipelineError
from pipeline.runtime.out_of_memory import is_out_of_memory, short_message

DEATHS_ALLOWED = 1
FAILURES_AT_FIRST = 3
SECONDS_BETWEEN_LOG_LINES = 30
SECONDS_WITHOUT_WORKERS = (
    60  # of our own cluster, which restarts them within a few; a user's may be queued for hours
)


@dataclass(kw_only=True)
class EmbedReport:
    """Result of one run: chunks and rows written, rows without an embedding, seconds, and why chunks failed."""

    rows: int = 0
    chunks: int = 0
    unreadable: int = 0
    degenerate: int = 0
    seconds: float = 0.0
    failures: dict[Chunk, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.chunks:
            return "nothing to do, every chunk is there"
        rate = self.rows / max(self.seconds, 1e-9)
        return (
            f"{self.rows} rows in {self.seconds:.1f} s ({rate:.1f} rows/s), {self.unreadable} unreadable, "
            f"{self.degenerate} with a zero or non-finite embedding"
        )

    def add_chunk(self, statuses: dict[int, int]) -> None:
        """Count one written chunk, given its number of rows per status."""
        self.chunks += 1
        self.rows += sum(statuses.values())
        self.unreadable += statuses.get(Status.UNREADABLE, 0)
        self.degenerate += statuses.get(Status.DEGENERATE, 0)


def dispatch(client: Client, job: Job, chunks: Sequence[Chunk], progress: bool) -> EmbedReport:
    """Compute all chunks, one per worker at a time.

    A chunk whose worker died is retried once, after the others. The run ends early when the store cannot be written,
    or when the first chunks all fail. Raises PipelineError if the workers of our own cluster do not come back.
    """
    report, deaths, began = EmbedReport(), Counter[Chunk](), time.monotonic()
    waiting, running, finished = deque(chunks), dict[Future, Chunk](), as_completed()
    with RowsBar(client, chunks, shown=progress) as bar:
        _submit(client, job, waiting, running, finished)
        for future in _as_they_finish(client, running, finished):
            chunk, error = running.pop(future), future.exception()
            if error is None:
                report.add_chunk(future.result())
                bar.set(chunk, len(chunk.rows))
            elif isinstance(error, KilledWorker) and deaths[chunk] < DEATHS_ALLOWED:
                deaths[chunk] += 1
                waiting.append(chunk)
            else:
                report.failures[chunk] = _reason(error)
            all_failed = not report.chunks and len(report.failures) >= FAILURES_AT_FIRST
            if isinstance(error, StoreError) or all_failed:
                break
            _submit(client, job, waiting, running, finished)
    report.seconds = time.monotonic() - began
    return report


def _as_they_finish(client: Client, running: dict[Future, Chunk], finished: as_completed) -> Iterator[Future]:
    """Yield futures until none is running; dask itself would wait for workers without end."""
    last_seen = checked = time.monotonic()
    while running:
        if finished.has_ready():
            yield next(finished)
            continue
        now = time.monotonic()
        if client.cluster is not None and now - checked > 1:
            checked = now
            if client.nthreads():
                last_seen = now
            elif now - last_seen > SECONDS_WITHOUT_WORKERS:
                raise PipelineError(
                    f"no worker has been alive for {SECONDS_WITHOUT_WORKERS} s: they die while they start, and their "
                    "errors are above; when that is mended, run the command again, which computes only what is absent"
                )
        time.sleep(0.01)


def _submit(
    client: Client, job: Job, waiting: deque[Chunk], running: dict[Future, Chunk], finished: as_completed
) -> None:
    workers = max(1, sum(client.nthreads().values()))
    while waiting and len(running) < workers:
        chunk = waiting.popleft()
        future = client.submit(compute, job, chunk, progress_topic(client), pure=False)
        running[future] = chunk
        finished.add(future)


def compute(job: Job, chunk: Chunk, topic: str) -> dict[int, int]:
    """Compute and write one chunk, in a worker. Returns the number of rows per status."""
    log_event = get_worker().log_event
    rows = embed_chunk(job, chunk, lambda done: log_event(topic, (chunk.split, chunk.rows.start, done)))
    return dict(Counter(rows.status.tolist()))


def _reason(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return f"it killed {DEATHS_ALLOWED + 1} workers (out of memory, or a crash in native code)"
    if is_out_of_memory(error):
        return f"out of memory ({short_message(error)}): use a smaller --batch-size or fewer --workers"
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if isinstance(error, StoreError | PipelineError) else f"{type(error).__name__}: {text}"


def progress_topic(client: Client) -> str:
    """Return the topic on which workers report progress to a client; its bare id is taken by dask."""
    return f"rows-{client.id}"


class RowsBar:
    """A progress bar over rows, updated by the workers after each batch."""

    def __init__(self, client: Client, chunks: Sequence[Chunk], *, shown: bool) -> None:
        interval = 0.2 if sys.stderr.isatty() else SECONDS_BETWEEN_LOG_LINES
        total = sum(len(chunk.rows) for chunk in chunks)
        self.client, self.lock = client, threading.Lock()
        self.done = {(chunk.split, chunk.rows.start): 0 for chunk in chunks}
        self.bar = tqdm(
            total=total, unit=" rows", disable=not shown, mininterval=interval, dynamic_ncols=True
        )

    def __enter__(self) -> Self:
        self.client.subscribe_topic(progress_topic(self.client), self._on_event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.unsubscribe_topic(progress_topic(self.client))
        self.bar.close()

    def set(self, chunk: Chunk, rows: int) -> None:
        """Set how many rows of a chunk are done; fewer than before if the chunk was restarted."""
        self._set((chunk.split, chunk.rows.start), rows)

    def _on_event(self, event: tuple[float, Any]) -> None:
        split, start, rows = event[1]
        self._set((split, start), rows)

    def _set(self, place: tuple[str, int], rows: int) -> None:
        with self.lock:
            self.bar.update(rows - self.done[place])
            self.done[place] = rows
