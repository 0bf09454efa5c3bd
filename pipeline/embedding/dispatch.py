"""Chunks over dask workers: what became of each, and the progress bar."""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from distributed import Client

from cache.errors import StoreError
from cache.layout import Status
from pipeline.embedding.chunk_queue import DEATHS_ALLOWED, ChunkQueue, WorkerDied
from pipeline.embedding.tasks import Chunk, Job
from pipeline.embedding.worker_shares import Workers, reason_of
from pipeline.runtime.out_of_memory import is_out_of_memory, short_message
from pipeline.runtime.progress import Progress

FAILURES_AT_FIRST = 3


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
    """Compute all chunks, two per worker at a time (see `ChunkQueue`).

    A chunk whose worker died is retried once, after the others. The run ends early when the store cannot be written,
    or when the first chunks all fail. Raises PipelineError if the workers of our own cluster do not come back, or if
    none of a cluster can compute.
    """
    report, began = EmbedReport(), time.monotonic()
    queue = ChunkQueue(client, job, chunks, progress_topic(client))

    def name_workers(workers: Workers) -> None:
        if progress and client.cluster is None:
            print(workers, file=sys.stderr)

    with RowsBar(client, chunks, shown=progress) as bar:
        for chunk, outcome in queue.outcomes(name_workers):
            if isinstance(outcome, dict):
                report.add_chunk(outcome)
                bar.set(chunk, len(chunk.rows))
            else:
                report.failures[chunk] = _reason(outcome)
            all_failed = not report.chunks and len(report.failures) >= FAILURES_AT_FIRST
            if isinstance(outcome, StoreError) or all_failed:
                break
    report.seconds = time.monotonic() - began
    return report


def _reason(error: BaseException) -> str:
    if isinstance(error, WorkerDied):
        return f"it killed {DEATHS_ALLOWED + 1} workers (out of memory, or a crash in native code)"
    if is_out_of_memory(error):
        return f"out of memory ({short_message(error)}): use a smaller --batch-size or fewer --workers"
    return reason_of(error)


def progress_topic(client: Client) -> str:
    """Return the topic on which workers report progress to a client; its bare id is taken by dask."""
    return f"rows-{client.id}"


class RowsBar:
    """A progress bar over rows, updated by the workers after each batch."""

    def __init__(self, client: Client, chunks: Sequence[Chunk], *, shown: bool) -> None:
        total = sum(len(chunk.rows) for chunk in chunks)
        self.client, self.lock = client, threading.Lock()
        self.done = {chunk.place: 0 for chunk in chunks}
        self.bar = Progress(total=total, unit=" rows", disable=not shown)

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
        self._set(chunk.place, rows)

    def _on_event(self, event: tuple[float, Any]) -> None:
        place, rows = event[1]
        self._set(tuple(place), rows)

    def _set(self, place: tuple[str, int, int], rows: int) -> None:
        with self.lock:
            self.bar.update(rows - self.done[place])
            self.done[place] = rows
