"""Chunks on their way through dask workers: two at once on each, and again if a worker died."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from distributed import Client, Future, KilledWorker

from pipeline.embedding.extract import ExtractionSettings
from pipeline.embedding.tasks import Chunk, Job, compute
from pipeline.embedding.worker_shares import Workers
from pipeline.errors import PipelineError

CHUNKS_AT_ONCE = 2  # of a worker: while one is computed, the next is decoded, or the one before written
DEATHS_ALLOWED = 1
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_FOR_A_RESULT = 30
# Of our own cluster, which restarts them within a minute even on a busy machine; a user's may be queued for hours.
SECONDS_WITHOUT_WORKERS = 180
Outcome = dict[int, int] | BaseException


class WorkerDied(Exception):
    """The workers that computed a chunk died."""


class ChunkQueue:
    """Chunks that wait, and those under way, each on a worker of the client's cluster.

    A chunk is sent to one worker and no other, so that the chunks of a worker that died are known. They are computed
    once more after all others, each alone on a worker, which tells the chunk that kills from its neighbour.
    """

    def __init__(self, client: Client, job: Job, chunks: Sequence[Chunk], topic: str) -> None:
        self.client, self.job, self.topic = client, job, topic
        self.workers = Workers(client, job.device, job.threads)
        self.waiting, self.running = deque(chunks), dict[Future, tuple[Chunk, str]]()
        self.deaths = Counter[Chunk]()
        self.last_seen = time.monotonic()

    def outcomes(self, when_new: Callable[[Workers], None]) -> Iterator[tuple[Chunk, Outcome]]:
        """Yield each chunk with its number of rows per status, or the error that it failed with.

        when_new is called after workers have joined. Raises PipelineError if the workers of our own cluster do not
        come back, or if none of a cluster can compute.
        """
        last_look = float("-inf")
        while self.waiting or self.running:
            done = [future for future in self.running if future.done()]
            for future in done:
                yield from self._outcome(self.running.pop(future)[0], future)
            if (done and self.waiting) or time.monotonic() - last_look > SECONDS_BETWEEN_LOOKS:
                if self.workers.refresh():
                    when_new(self.workers)
                last_look = time.monotonic()
                yield from self._lost()
                self._require_workers()
                self._submit()
            else:
                time.sleep(0.01)

    def _outcome(self, chunk: Chunk, future: Future) -> Iterator[tuple[Chunk, Outcome]]:
        error = future.exception()
        if isinstance(error, KilledWorker):
            yield from self._died(chunk)
        elif error is not None:
            yield chunk, error
        else:
            try:
                yield chunk, future.result(timeout=SECONDS_FOR_A_RESULT)
            except TimeoutError:  # the worker died between the end of the chunk and this
                yield from self._died(chunk)

    def _lost(self) -> Iterator[tuple[Chunk, Outcome]]:
        """Take back the chunks whose worker is gone: dask would wait until it comes back."""
        gone = [future for future, (_, address) in self.running.items() if address not in self.workers.alive]
        for future in gone:
            chunk, _ = self.running.pop(future)
            if future.done():
                yield from self._outcome(chunk, future)
            else:
                future.cancel()
                yield from self._died(chunk)

    def _died(self, chunk: Chunk) -> Iterator[tuple[Chunk, Outcome]]:
        self.deaths[chunk] += 1
        if self.deaths[chunk] > DEATHS_ALLOWED:
            yield chunk, WorkerDied()
        else:
            self.waiting.append(chunk)

    def _require_workers(self) -> None:
        now = time.monotonic()
        if self.workers.alive or self.client.cluster is None:
            self.last_seen = now
        elif now - self.last_seen > SECONDS_WITHOUT_WORKERS:
            raise PipelineError(
                f"no worker has been alive for {SECONDS_WITHOUT_WORKERS} s: they die while they start, and their "
                "errors are above; when that is mended, run the command again, which computes only what is absent"
            )

    def _submit(self) -> None:
        under_way: dict[str, list[Chunk]] = {address: [] for address in self.workers.shares}
        for chunk, address in self.running.values():
            under_way.setdefault(address, []).append(chunk)
        for level in range(CHUNKS_AT_ONCE):
            for address, share in self.workers.shares.items():
                own = under_way[address]
                if self.waiting and len(own) == level and self._may_share(own):
                    own.append(self.waiting.popleft())
                    self._send(own[-1], address, self.job.settings(share.device, share.threads))

    def _may_share(self, own: Sequence[Chunk]) -> bool:
        """Return whether the first waiting chunk may join these: one whose worker has died is computed alone."""
        return not own or not any(self.deaths[chunk] for chunk in (*own, self.waiting[0]))

    def _send(self, chunk: Chunk, address: str, settings: ExtractionSettings) -> None:
        future = self.client.submit(
            compute, self.job, settings, chunk, self.topic, pure=False, workers=[address]
        )
        self.running[future] = chunk, address
