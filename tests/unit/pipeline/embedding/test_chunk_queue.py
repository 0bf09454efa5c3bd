"""Chunks on workers that a test plants: two on each, in order, and again alone if the worker died."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed import KilledWorker

from cache.layout import ChunkKey
from pipeline.embedding import chunk_queue
from pipeline.embedding.chunk_queue import ChunkQueue, WorkerDied
from pipeline.embedding.extract import ExtractionSettings
from pipeline.embedding.tasks import Chunk, Job
from pipeline.embedding.worker_shares import Machine, Workers
from pipeline.runtime.device import CPU
from pipeline.teachers.backbone_spec import BackboneSpec

A, B, C = (f"tcp://10.0.0.{number}:40000" for number in range(1, 4))
DONE = {1: 64}


class PlantedFuture:
    """A task that ends when the test says so."""

    def __init__(self, number: int, address: str) -> None:
        self.number, self.address = number, address
        self.error: BaseException | None = None
        self.ended = self.cancelled = self.kept = False

    def end(self, error: BaseException | None = None, *, kept: bool = True) -> None:
        """End; kept: whether the worker that has the result still lives."""
        self.ended, self.error, self.kept = True, error, kept

    def done(self) -> bool:
        return self.ended

    def exception(self) -> BaseException | None:
        return self.error

    def result(self, timeout: float) -> dict[int, int]:
        if not self.kept:
            raise TimeoutError
        return DONE

    def cancel(self) -> None:
        self.cancelled = True


class PlantedCluster:
    """A cluster whose workers and tasks a test moves on with `step`, which is called instead of waiting."""

    cluster = None

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses, self.sent = list(addresses), list[PlantedFuture]()
        self.settings: list[ExtractionSettings] = []

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.addresses, 16)

    def run(self, function: object, device: str, *, workers: list[str], on_error: str) -> dict[str, Machine]:
        cores = frozenset(range(4))
        return {each: Machine(device=CPU, gpus=0, visible=None, model="CPU", cores=cores) for each in workers}

    def submit(
        self,
        function: object,
        job: Job,
        settings: ExtractionSettings,
        chunk: Chunk,
        topic: str,
        *,
        pure: bool,
        workers: list[str],
    ) -> PlantedFuture:
        (address,) = workers
        assert address in self.addresses
        self.settings.append(settings)
        self.sent.append(PlantedFuture(chunk.key.index, address))
        return self.sent[-1]

    def under_way(self) -> list[tuple[int, str]]:
        return [(each.number, each.address) for each in self.open()]

    def open(self) -> list[PlantedFuture]:
        return [each for each in self.sent if not each.ended and not each.cancelled]

    def end(self, number: int, error: BaseException | None = None, *, kept: bool = True) -> None:
        (future,) = (each for each in self.open() if each.number == number)
        future.end(error, kept=kept)


def queue_of(cluster: PlantedCluster, chunks: int) -> ChunkQueue:
    spec = BackboneSpec(kind="teacher", name="pixels")
    job = Job(spec=spec, weights_sha256="", store=Path(), device="auto", precision="fp32", batch_size=8)
    place = {"dataset": Path(), "data": Path(), "split": "train", "images": ""}
    keys = [ChunkKey(0, number) for number in range(chunks)]
    return ChunkQueue(cluster, job, [Chunk(**place, key=key, rows=range(64)) for key in keys], "topic")


def outcomes(
    queue: ChunkQueue,
    steps: Sequence[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
    when_new: Callable[[Workers], None] = lambda workers: None,
) -> list[tuple[int, Any]]:
    """Return the chunks' numbers and outcomes, with one step taken at each wait."""
    remaining = iter(steps)
    monkeypatch.setattr(chunk_queue, "SECONDS_BETWEEN_LOOKS", -1.0)
    submit = queue._submit

    def submit_and_step() -> None:
        submit()
        for step in remaining:
            step()
            break

    monkeypatch.setattr(queue, "_submit", submit_and_step)
    return [(chunk.key.index, outcome) for chunk, outcome in queue.outcomes(when_new)]


def check(cluster: PlantedCluster, *expected: tuple[int, str]) -> None:
    assert cluster.under_way() == list(expected)


def test_each_worker_has_two_chunks_and_an_idle_one_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = PlantedCluster([A, B])

    def first() -> None:
        check(cluster, (0, A), (1, B), (2, A), (3, B))
        cluster.end(1)
        cluster.end(3)

    def second() -> None:
        check(cluster, (0, A), (2, A), (4, B))
        for number in (0, 2, 4):
            cluster.end(number)

    found = outcomes(queue_of(cluster, 5), [first, second], monkeypatch)
    assert found == [(number, DONE) for number in (1, 3, 0, 2, 4)]
    assert {(each.device, each.threads, each.batch_size) for each in cluster.settings} == {(CPU, 4, 8)}


@pytest.mark.parametrize("told", [True, False])
def test_chunks_of_a_worker_that_died_come_last_and_alone(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """told: the scheduler fails the tasks of a dead worker, or lets them wait for its return."""
    cluster = PlantedCluster([A])

    def die(address: str, *numbers: int) -> None:
        cluster.addresses.remove(address)
        for number in numbers if told else ():
            cluster.end(number, KilledWorker("task", None, 0))

    def first() -> None:
        check(cluster, (0, A), (1, A))
        die(A, 0, 1)
        cluster.addresses.append(B)

    def second() -> None:
        check(cluster, (2, B), (3, B))
        cluster.end(2)

    def third() -> None:
        check(cluster, (3, B))
        cluster.end(3)

    def fourth() -> None:
        check(cluster, (0, B))
        die(B, 0)
        cluster.addresses.append(C)

    def fifth() -> None:
        check(cluster, (1, C))
        cluster.end(1)

    steps = [first, second, third, fourth, fifth]
    found = outcomes(queue_of(cluster, 4), steps, monkeypatch)
    assert [number for number, _ in found] == [2, 3, 0, 1]
    assert [type(outcome) for _, outcome in found] == [dict, dict, WorkerDied, dict]
    assert all(each.ended or each.cancelled for each in cluster.sent)


def test_a_result_that_died_with_its_worker_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = PlantedCluster([A])
    steps = [lambda: cluster.end(0, kept=False), lambda: cluster.end(0)]
    assert outcomes(queue_of(cluster, 1), steps, monkeypatch) == [(0, DONE)]
    assert [each.number for each in cluster.sent] == [0, 0]


def test_an_error_is_the_chunks_outcome_and_new_workers_are_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, error, announced = PlantedCluster([]), ValueError("bad"), list[str]()
    steps = [
        lambda: cluster.addresses.append(A),
        lambda: check(cluster, (0, A)),
        lambda: cluster.end(0, error),
    ]
    queue = queue_of(cluster, 1)
    assert outcomes(queue, steps, monkeypatch, lambda workers: announced.append(str(workers))) == [(0, error)]
    assert announced == ["1 worker: 1 x CPU with 4 threads"]
