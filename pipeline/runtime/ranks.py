"""Batches gathered over the ranks of a distributed run."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
