"""Dask workers: how many there are, which device each sees, and how their cluster ends."""

import os
import signal

import pytest
import torch

from pipeline.embedding import dask_workers
from pipeline.embedding.dask_workers import open_client, share_of_machine, visible_device
from pipeline.embedding.tasks import chunk_count
from pipeline.runtime.device import CPU

GPU = torch.device("cuda", 0)


def test_sigterm_interrupts_while_the_cluster_is_open(scheduler: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        open_client(workers=1, threads=1, device=CPU, scheduler=scheduler),
        pytest.raises(KeyboardInterrupt),
    ):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_each_worker_sees_one_of_the_devices_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_device(number, 3) for number in range(3)] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [visible_device(number, 2) for number in range(3)] == ["2", "5", "2"]


def test_more_workers_than_devices_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environments = [dask_workers._worker(number, GPU)["options"]["env"] for number in range(5)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["0", "1", "0", "1", "0"]
    assert dask_workers._worker(1, CPU)["options"]["env"] == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(("workers", "count", "threads"), [(0, 2, 3), (1, 1, 6), (3, 3, 2), (50, 4, 1)])
def test_threads_follow_from_the_whole_dataset(
    monkeypatch: pytest.MonkeyPatch, workers: int, count: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(dask_workers, "MOST_CPU_WORKERS", 2)
    assert share_of_machine(workers, CPU, chunks=chunk_count([160, 5], dim=131072)) == (count, threads)
