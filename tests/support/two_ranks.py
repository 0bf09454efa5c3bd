"""Run a function on two gloo ranks: this process is rank 0, a new one is rank 1."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from pipeline.images.fork_server import fork_server

TIMEOUT = timedelta(minutes=3)  # the default of half an hour is long to wait for a rank that failed to start


def on_two_ranks(work: Callable[..., Any], folder: Path, *arguments: object) -> list[Any]:
    """Return what work(rank, *arguments) returns on each rank; `work` is a function at a module's top level."""
    fork_server()  # that of `pack`, which imports PyTorch once for all tests
    # which has asked CUDA for its GPUs, so that forked processes cannot use them
    method = "spawn" if torch.cuda.is_available() else "forkserver"
    other = start_processes(_run, args=(work, folder, *arguments), nprocs=1, join=False, start_method=method)
    try:
        _run(-1, work, folder, *arguments)
    except BaseException:
        other.processes[0].kill()  # or the two processes would wait for each other
        raise
    other.join()
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def _run(process: int, work: Callable[..., Any], folder: Path, *arguments: object) -> None:
    rank = process + 1
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=TIMEOUT)
    try:
        torch.save(work(rank, *arguments), folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
