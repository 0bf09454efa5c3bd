"""Devices and threads are found in the worker and shared out over its machine, tried with planted GPUs."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from distributed.comm.core import CommClosedError

from pipeline.embedding import worker_shares
from pipeline.embedding.worker_shares import Machine, Workers, inspect_machine
from pipeline.errors import PipelineError, WrongUse
from pipeline.runtime.device import CPU

ONE, TWO = "tcp://10.0.0.1:4000{}", "tcp://10.0.0.2:4000{}"
NO_GPU = WrongUse("--device cuda: PyTorch finds no CUDA device; use --device cpu")


def machine(gpus: int, visible: str | None = None, cores: range = range(16)) -> Machine:
    device = torch.device("cuda", 0) if gpus else CPU
    model = "H100" if gpus else "CPU"
    return Machine(device=device, gpus=gpus, visible=visible, model=model, cores=frozenset(cores))


class PlantedClient:
    """A cluster's client: `found` is what its workers find, by address."""

    cluster = None

    def __init__(self, found: dict[str, Machine | Exception]) -> None:
        self.found, self.asked = found, list[list[str]]()

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(reversed(self.found), 16)

    def run(
        self, function: Callable[[str], Machine], device: str, *, workers: list[str], on_error: str
    ) -> dict[str, Any]:
        assert (function, device, on_error) == (inspect_machine, "auto", "return")
        self.asked.append(workers)
        return {address: self.found[address] for address in workers}


def workers_of(client: PlantedClient, threads: int | None = None) -> Workers:
    workers = Workers(client, "auto", threads)
    workers.refresh()
    return workers


def gpus(workers: Workers) -> dict[str, int | None]:
    return {address: share.device.index for address, share in sorted(workers.shares.items())}


def test_workers_of_one_machine_take_its_gpus_in_turn_and_share_them() -> None:
    found: dict[str, Machine | Exception] = {ONE.format(n): machine(4) for n in range(6)}
    found |= {TWO.format(n): machine(2) for n in range(2)}
    workers = workers_of(PlantedClient(found))
    assert list(gpus(workers).values()) == [0, 1, 2, 3, 0, 1, 0, 1]
    assert [share.threads for _, share in sorted(workers.shares.items())] == [2] * 6 + [8] * 2


@pytest.mark.parametrize(
    ("visible", "each", "expected"),
    [
        (["0", "1", "2"], 1, [0, 0, 0]),  # Slurm with a GPU per task
        (["0", "0", "0"], 1, [0, 0, 0]),  # and each task sees no other
        (["0,1,2", "1,2,0", "2,0,1"], 3, [0, 0, 0]),  # dask-cuda
        (["4,5", "4,5", "4,5"], 2, [0, 1, 0]),  # a job's GPUs, not assigned to its workers
        ([None, None, None], 2, [0, 1, 0]),
    ],
)
def test_a_gpu_that_the_cluster_assigned_is_kept(
    visible: list[str | None], each: int, expected: list[int]
) -> None:
    found: dict[str, Machine | Exception] = {
        ONE.format(n): machine(each, value) for n, value in enumerate(visible)
    }
    assert list(gpus(workers_of(PlantedClient(found))).values()) == expected


def test_a_worker_that_comes_later_takes_the_free_place_and_the_threads_stay() -> None:
    client = PlantedClient({ONE.format(n): machine(2) for n in range(2)})
    workers = workers_of(client)
    del client.found[ONE.format(0)]
    assert not workers.refresh()
    assert gpus(workers) == {ONE.format(1): 1}
    client.found[ONE.format(7)] = machine(2)
    assert workers.refresh()
    assert gpus(workers) == {ONE.format(1): 1, ONE.format(7): 0}
    assert {share.threads for share in workers.shares.values()} == {8}
    assert client.asked == [[ONE.format(0), ONE.format(1)], [ONE.format(7)]]


def test_cores_that_a_worker_has_alone_are_all_its_own() -> None:
    bound = {ONE.format(n): machine(1, str(n), range(4 * n, 4 * n + 4)) for n in range(2)}
    assert {share.threads for share in workers_of(PlantedClient(bound)).shares.values()} == {4}
    assert {share.threads for share in workers_of(PlantedClient(bound), 3).shares.values()} == {3}


def test_a_worker_that_cannot_compute_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    lost = ModuleNotFoundError("No module named 'pipeline'")
    found = {ONE.format(0): machine(1), ONE.format(1): NO_GPU, TWO.format(0): lost}
    client = PlantedClient(found)
    workers = workers_of(client)
    assert gpus(workers) == {ONE.format(0): 0}
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"warning: the worker {ONE.format(1)} is not used: {NO_GPU}"
    assert second.endswith("No module named 'pipeline': start it with this project's folder in PYTHONPATH")
    workers.refresh()
    assert len(client.asked) == 1
    del client.found[ONE.format(0)]
    with pytest.raises(
        PipelineError, match=r"no dask worker can compute; tcp://10.0.0.1:40001: --device cuda"
    ):
        workers.refresh()


def test_a_worker_that_dies_while_it_is_asked_is_asked_again() -> None:
    client = PlantedClient({ONE.format(0): CommClosedError("gone")})
    workers = workers_of(client)
    assert not workers.shares
    client.found[ONE.format(0)] = machine(0)
    workers.refresh()
    assert gpus(workers) == {ONE.format(0): None}


def test_a_scheduler_that_is_gone_is_a_sentence() -> None:
    client = PlantedClient({ONE.format(0): machine(0)})
    workers = workers_of(client)
    client.nthreads = closed  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match=r"scheduler does not answer any more \(gone\); once it is back"):
        workers.refresh()


def closed() -> dict[str, int]:
    raise CommClosedError("gone")


def test_what_computes_is_said_in_one_line() -> None:
    found: dict[str, Machine | Exception] = {ONE.format(n): machine(2) for n in range(2)}
    assert str(workers_of(PlantedClient(found))) == "2 workers: 2 x H100 with 8 threads"
    found = {ONE.format(0): machine(0, cores=range(1)), TWO.format(0): machine(1)}
    assert (
        str(workers_of(PlantedClient(found))) == "2 workers: 1 x CPU with 1 thread, 1 x H100 with 16 threads"
    )


def test_a_worker_finds_its_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_shares, "resolve_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2,7")
    assert inspect_machine("auto") == machine(3, "1,2,7", range(4, 6))
    monkeypatch.setattr(worker_shares, "resolve_device", lambda name: CPU)
    assert inspect_machine("auto") == machine(0, "1,2,7", range(4, 6))
