"""Distributed training: a single process without a launcher, or one per rank when started by torchrun."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cache.errors import StoreError
from pipeline.errors import PipelineError, WrongUse, first_line

# Ranks on CPUs notice at once when another dies, since its connection closes, and after this long when it hangs. NCCL
# notices nothing: unless torchrun ends its ranks, as it does on one machine, they end after this long.
TIMEOUT = timedelta(minutes=30)
PATIENCE = timedelta(days=1)  # while one rank works and the others wait for its word, as to verify a cache

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """Rank of this process, number of ranks, and rank among those of this machine, which selects the GPU.

    words: the process group of `gather`, on the CPU and patient; None means the default group.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    words: Any = field(default=None, repr=False, compare=False)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order. All ranks must call it, and wait up to a day for the last."""
        values = [value] * self.size
        if self.size > 1:
            with explain_lost_rank():
                dist.all_gather_object(values, value, group=self.words)
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Wait for all ranks at the end of the context; a PipelineError or StoreError of any rank is raised on all.

        The context must not exchange anything between ranks.
        """
        error = None
        try:
            yield
        except (PipelineError, StoreError) as raised:
            error = raised
        for each in self.gather(error):
            if each is not None:
                raise each

    def local_batch_size(self, batch_size: int) -> int:
        """Return one rank's part of a global batch. Raises WrongUse if the batch cannot be divided equally."""
        if batch_size % self.size:
            raise WrongUse(
                f"--batch-size {batch_size} is not divisible by the number of ranks, {self.size}: give a multiple of "
                "it, or start another number of ranks (GPUS=... with make)"
            )
        return batch_size // self.size


ALONE = World()


def use_all_cores() -> None:
    """Let torch use this rank's share of the cores, or OMP_NUM_THREADS: importing FFCV sets torch to one thread."""
    wanted = os.environ.get("OMP_NUM_THREADS")
    if wanted == "1" and ranks_here() > 1:
        wanted = None  # what torchrun sets where the user has set nothing
    torch.set_num_threads(int(wanted or cores_of_rank()))


def cores_of_rank() -> int:
    """Return this rank's share of the cores that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // ranks_here())


def ranks_here() -> int:
    """Return the number of ranks on this machine, 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def init_distributed(device: torch.device) -> World:
    """Join the process group described by torchrun's environment variables: NCCL on GPUs, gloo on the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    with explain_lost_rank():
        if not dist.is_initialized():
            _join(device)
        words = dist.new_group(backend="gloo", timeout=PATIENCE)
    local_rank = int(os.environ["LOCAL_RANK"])
    return World(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=local_rank, words=words)


def _join(device: torch.device) -> None:
    if device.type == "cpu":
        dist.init_process_group("gloo", timeout=TIMEOUT)
        return
    # first: NCCL, and whatever names no device, would otherwise use the machine's first GPU on every rank
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)


def shutdown_distributed() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Return whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def is_main_process() -> bool:
    """Return whether this is rank 0, which writes the run folder and shows progress.

    It may be called before `init_distributed`.
    """
    if is_distributed():
        return dist.get_rank() == 0
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


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
            f"({first_line(error)}): see the end of its output for the reason; the same command goes on "
            "from the last checkpoint"
        ) from error


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is true on any rank, so that all ranks take the same branch in the same step."""
    if not is_distributed():
        return flag
    result = torch.tensor(float(flag), device=device)
    dist.all_reduce(result, dist.ReduceOp.MAX)
    return bool(result.item())


def on_main_process(work: Callable[[], None]) -> None:
    """Run something on rank 0, while the others wait for up to a day. All ranks must call it."""
    if not is_distributed():
        work()
        return
    with explain_lost_rank():
        patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        if is_main_process():
            work()
        dist.barrier(patient)
        dist.destroy_process_group(patient)


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
        # into one tensor: torch.cat refuses float16 under the CPU's autocast
        gathered = tensor.new_empty(dist.get_world_size() * len(tensor), *tensor.shape[1:])
        dist.all_gather(list(gathered.split(len(tensor))), tensor)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.rows
        return total[first : first + ctx.rows]
