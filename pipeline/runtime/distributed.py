"""Distributed training: a single process without a launcher, or one per rank when started by torchrun."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import PipelineError, WrongUse

# The other ranks notice at once when a rank dies, since its connection closes, and after this long when it hangs. It
# must cover --eval-every on a large dataset, where rank 0 evaluates for minutes while the others wait.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class World:
    """Rank of this process and number of ranks."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def local_batch_size(self, batch_size: int) -> int:
        """Return one rank's part of a global batch. Raises WrongUse if the batch cannot be divided equally."""
        if batch_size % self.size:
            raise WrongUse(
                f"--batch-size {batch_size} is not divisible by the number of ranks, {self.size}: give a multiple of it"
            )
        return batch_size // self.size


def use_all_cores() -> None:
    """Let torch use this rank's share of the cores, or OMP_NUM_THREADS: importing FFCV sets torch to one thread."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", max(1, cores))))


def resolve_device(name: str) -> str:
    """Return "cpu" or "cuda"; "auto" means CUDA if available. Raises WrongUse for CUDA without a device."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise WrongUse(f"unknown device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise WrongUse("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    return name


def init_distributed(device: str) -> World:
    """Join the process group described by torchrun's environment variables: NCCL on CUDA, gloo on the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not dist.is_initialized():
        with explain_lost_rank():
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    return World(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=int(os.environ["LOCAL_RANK"]))


def shutdown_distributed() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Return whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def is_main_process() -> bool:
    """Return whether this is rank 0, which writes the run folder and shows progress."""
    return not is_distributed() or dist.get_rank() == 0


@contextlib.contextmanager
def explain_lost_rank() -> Iterator[None]:
    """Turn the error caused by another rank that died or hangs into a PipelineError."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in message and "NCCL" not in message:
            raise
        raise PipelineError(
            f"another rank died or did not respond for {TIMEOUT.total_seconds() / 60:g} minutes "
            f"({message.strip().splitlines()[0]}): see the end of its output for the reason; the same command goes on "
            "from the last checkpoint"
        ) from error


def any_rank(flag: bool, device: str) -> bool:
    """Return whether `flag` is true on any rank, so that all ranks take the same branch in the same step."""
    if not is_distributed():
        return flag
    result = torch.tensor(float(flag), device=device)
    dist.all_reduce(result, dist.ReduceOp.MAX)
    return bool(result.item())


def broadcast(tensor: Tensor) -> None:
    """Overwrite `tensor` on every rank with the one of rank 0."""
    if is_distributed():
        dist.broadcast(tensor, 0)


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the (B, ...) tensors of all ranks in rank order: (ranks * B, ...), with the same B on all ranks.

    Differentiable: each rank receives the sum over ranks of the gradients of its own part. So if every rank computes
    the same loss on the gathered batch, DDP's mean over ranks is the gradient of that loss. Without a process group
    it returns its input.
    """
    return _AllGather.apply(tensor.contiguous()) if is_distributed() else tensor


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.rows
        return total[first : first + ctx.rows]
