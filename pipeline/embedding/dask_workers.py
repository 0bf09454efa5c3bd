"""Dask workers: processes on this machine that end with this one, or those of a running cluster."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
import torch
from distributed import Client, Nanny, Scheduler, SpecCluster

from pipeline.errors import WrongUse
from pipeline.runtime.device import CPU
from pipeline.runtime.signals import children_ignore_interrupts, delayed_interrupts, terminated_as_interrupted

SECONDS_TO_CONNECT = 30
MOST_CPU_WORKERS = 4
QUIET = logging.CRITICAL + 1
# glibc returns large blocks to the system on every free, and dask asks it to return even more, so a forward pass
# spends most of its time in page faults: 384 images of 96 px through EfficientNet-Lite0 on one core took 11.7 s,
# and take 3.2 s with these.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 1 << 32, "MALLOC_ARENA_MAX": 1}
NO_RANK = {
    "WORLD_SIZE": 1,
    "RANK": 0,
    "LOCAL_WORLD_SIZE": 1,
    "LOCAL_RANK": 0,
}  # also where this process is one
LOCAL = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}


@contextmanager
def open_client(
    *, workers: int = 1, threads: int = 1, device: torch.device = CPU, scheduler: str | None = None
) -> Iterator[Client]:
    """Connect to the dask cluster at address `scheduler`, or start one of `workers` processes on this machine.

    workers, threads, device: of a cluster of our own. On GPUs, each of its processes sees one GPU, which it shares if
    there are fewer. Ctrl-C and SIGTERM close the cluster.
    Raises WrongUse when no scheduler answers at the address.
    """
    settings = {
        # dispatch retries chunks itself, to tell a chunk that kills its worker from those queued behind it
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": {**KEEP_MEMORY, **NO_RANK, "OMP_NUM_THREADS": threads},
    }
    with ExitStack() as stack:
        stack.enter_context(_restored_environment())
        stack.enter_context(_silenced_log())
        stack.enter_context(terminated_as_interrupted())
        stack.enter_context(dask.config.set(settings))
        if scheduler is None:
            yield stack.enter_context(Client(stack.enter_context(_local_cluster(workers, device))))
        else:
            yield stack.enter_context(_connect(scheduler))


def _local_cluster(workers: int, device: torch.device) -> Any:
    with children_ignore_interrupts():
        return SpecCluster(
            workers={number: _worker(number, device) for number in range(workers)},
            scheduler={"cls": Scheduler, "options": {**LOCAL, "port": 0}},
            silence_logs=QUIET,
        )


def _worker(number: int, device: torch.device) -> dict[str, Any]:
    gpus = 0 if device.type == "cpu" else torch.cuda.device_count()
    # part of the process's environment, since torch reads it once, on import
    environment = {"CUDA_VISIBLE_DEVICES": visible_device(number, gpus)}
    options = {**LOCAL, "nthreads": 1, "memory_limit": 0, "env": environment, "silence_logs": QUIET}
    return {"cls": Nanny, "options": options}


def visible_device(number: int, gpus: int) -> str:
    """Return CUDA_VISIBLE_DEVICES for worker `number`: round-robin over the GPUs this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(gpus)]
    return names[number % gpus] if gpus else ""


def _connect(scheduler: str) -> Client:
    try:
        return Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise WrongUse(f"no dask scheduler answers at {scheduler}: {error}") from error


@contextmanager
def _restored_environment() -> Iterator[None]:
    # dask also sets its workers' variables in this process
    before = os.environ.copy()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _silenced_log() -> Iterator[None]:
    logger = logging.getLogger("distributed")
    before = logger.level
    # an interrupt inside Python 3.11's setLevel leaves logging's lock held, and dask's own thread then never ends
    with delayed_interrupts():
        logger.setLevel(QUIET)
    try:
        yield
    finally:
        with delayed_interrupts():
            logger.setLevel(before)


def share_of_machine(workers: int | None, device: torch.device, *, chunks: int) -> tuple[int, int]:
    """Return the number of worker processes for so many chunks, and the threads of each.

    workers: None means one per GPU, or one per core up to four.
    """
    cores = len(os.sched_getaffinity(0))
    most = workers or (min(cores, MOST_CPU_WORKERS) if device.type == "cpu" else torch.cuda.device_count())
    count = min(most, chunks)
    return count, max(1, cores // count)
