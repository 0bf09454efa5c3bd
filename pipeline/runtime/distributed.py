"""Ranks: one process without a launcher, or as many as torchrun starts."""

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

# A rank that died is noticed at once, by its closed connection; one that hangs, after this long. The first rank alone
# evaluates (--eval-every) while the others wait, and that may take minutes on a large dataset.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run folder and draws the progress bar."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """What one rank gets of a global batch; WrongUse if it does not divide."""
        if batch_size % self.size:
            raise WrongUse(
                f"--batch-size {batch_size} cannot be shared by {self.size} ranks: give a multiple of it"
            )
        return batch_size // self.size


def use_every_core() -> None:
    """Give torch this rank's share of the cores, or what OMP_NUM_THREADS says: importing FFCV leaves it one."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", max(1, cores))))


def join(device: str) -> World:
    """Join the process group that torchrun's environment describes, NCCL on CUDA and gloo on the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not dist.is_initialized():
        with explain_lost_rank():
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return World(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=int(os.environ["LOCAL_RANK"]))


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def explain_lost_rank() -> Iterator[None]:
    """While open, a rank that died or hangs is a PipelineError on the others, which wait for it."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in said and "NCCL" not in said:
            raise
        raise PipelineError(
            f"another rank died, or said nothing for {PATIENCE.total_seconds() / 60:g} minutes "
            f"({said.strip().splitlines()[0]}): its own last words tell why, and the same command goes on from the "
            "last checkpoint"
        ) from error


def any_rank(wish: bool, world: World, device: str) -> bool:
    """Whether any rank wishes it, so that all ranks do the same at the same step."""
    if world.size == 1:
        return wish
    flag = torch.tensor(float(wish), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def resolve_device(name: str) -> str:
    """ "auto" -> "cuda" where there is one, else "cpu". WrongUse for CUDA where there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise WrongUse(f"unknown device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise WrongUse("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    return name


class _GatherRanks(torch.autograd.Function):
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


def gather_ranks(tensor: Tensor) -> Tensor:
    """Concatenate the (B, ...) tensors of all ranks in rank order: (ranks * B, ...), with one B on all ranks.

    Differentiable: each rank receives the sum over ranks of the gradients of its own part. So if every rank
    computes one and the same loss of the gathered batch, DDP's mean over ranks is that loss's gradient.
    Without a process group it returns its input.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return _GatherRanks.apply(tensor.contiguous())


def is_first_rank() -> bool:
    """Whether this process is the first rank, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def from_first_rank(tensor: Tensor) -> None:
    """Overwrite `tensor` on every rank with the first rank's."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, 0)
