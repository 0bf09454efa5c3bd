"""Dask workers: a cluster of processes on this machine that ends with this one, or somebody's own cluster."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
import torch
from distributed import Client, Nanny, Scheduler, SpecCluster

from cache.layout import SplitShape
from pipeline.errors import WrongUse
from pipeline.images.dataset import Dataset
from pipeline.runtime.signals import children_deaf_to_interrupts, terminated_as_interrupted, uninterrupted

SECONDS_TO_CONNECT = 30
QUIET = logging.CRITICAL + 1
# glibc gives large blocks back to the system at each free, dask asks for more of that, and a forward pass
# mostly waits for page faults: 384 images of 96 px by EfficientNet-Lite0 on one core took 11.7 s, now 3.2 s.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 1 << 32, "MALLOC_ARENA_MAX": 1}
LOCAL = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}


@contextmanager
def open_client(*, workers: int, threads: int, device: str, scheduler: str | None) -> Iterator[Client]:
    """A client of the cluster at address `scheduler`, or of `workers` processes started here.

    On a GPU each process sees one device. Ctrl-C and SIGTERM close the cluster.
    Raises WrongUse when there is no scheduler at the address.
    """
    settings = {
        # dispatch tries a chunk again itself, and so can tell what kills workers from what waited behind it
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": {**KEEP_MEMORY, "OMP_NUM_THREADS": threads},
    }
    with ExitStack() as stack:
        stack.enter_context(_environment_given_back())
        stack.enter_context(_quiet())
        stack.enter_context(terminated_as_interrupted())
        stack.enter_context(dask.config.set(settings))
        if scheduler is None:
            yield stack.enter_context(Client(stack.enter_context(_local_cluster(workers, device))))
        else:
            yield stack.enter_context(_connect(scheduler))


def _local_cluster(workers: int, device: str) -> Any:
    if device == "cuda" and importlib.util.find_spec("dask_cuda"):
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster(
            n_workers=workers,
            memory_limit=0,
            dashboard_address=LOCAL["dashboard_address"],
            silence_logs=QUIET,
        )
    with children_deaf_to_interrupts():
        return SpecCluster(
            workers={number: _worker(number, device) for number in range(workers)},
            scheduler={"cls": Scheduler, "options": {**LOCAL, "port": 0}},
            silence_logs=QUIET,
        )


def _worker(number: int, device: str) -> dict[str, Any]:
    # set before the worker imports torch, which reads it once
    environment = {"CUDA_VISIBLE_DEVICES": visible_device(number) if device == "cuda" else ""}
    options = {**LOCAL, "nthreads": 1, "memory_limit": 0, "env": environment, "silence_logs": QUIET}
    return {"cls": Nanny, "options": options}


def visible_device(number: int) -> str:
    """CUDA_VISIBLE_DEVICES of worker `number`: one of the devices that this process may use, in turn."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[number % len(given.split(","))] if given else str(number)


def _connect(scheduler: str) -> Client:
    try:
        return Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise WrongUse(f"no dask scheduler answers at {scheduler}: {error}") from error


@contextmanager
def _environment_given_back() -> Iterator[None]:
    # dask writes its workers' environment into this process's own
    before = os.environ.copy()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("distributed")
    before = logger.level
    # interrupted within, Python 3.11's setLevel keeps a lock, and dask's own thread waits for it when it is to end
    with uninterrupted():
        logger.setLevel(QUIET)
    try:
        yield
    finally:
        with uninterrupted():
            logger.setLevel(before)


MOST_CPU_WORKERS = 4


def share_of_machine(workers: int, device: str, dataset: Dataset, dim: int) -> tuple[int, int]:
    """Worker processes, and the threads of each.

    Threads decide bits, so they follow from machine, flag and whole dataset, not from what is still to do.
    """
    chunks = sum(SplitShape(rows=split.rows, views=1, dim=dim).chunks for split in dataset.splits.values())
    return machine_share(workers, device, chunks=chunks)


def machine_share(workers: int, device: str, *, chunks: int) -> tuple[int, int]:
    """Worker processes for so many chunks (`workers` 0: as many as the machine has room for), threads of each."""
    cores = len(os.sched_getaffinity(0))
    wanted = workers or (torch.cuda.device_count() if device == "cuda" else min(cores, MOST_CPU_WORKERS))
    count = min(wanted, chunks)
    return count, max(1, cores // count)
