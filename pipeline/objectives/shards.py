"""Anchors divided among the ranks: each rank holds some slots, scores all queries against them, and sums are shared."""

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.runtime.distributed import is_distributed


def slots_of_rank(slots: int) -> range:
    """Return the slots, of `slots` in all, that this rank holds: a range of about slots / ranks."""
    return _division(slots)[dist.get_rank() if is_distributed() else 0]


def gather_slots(held: Tensor, slots: int) -> Tensor:
    """Return the rows (slots, ...) of all ranks, given those of this rank's slots. All ranks must call it.

    With several ranks the result is on the CPU, so that no device holds all of them.
    """
    if not is_distributed():
        return held
    parts = []
    for rank, of_rank in enumerate(_division(slots)):
        part = held.contiguous() if rank == dist.get_rank() else held.new_empty(len(of_rank), *held.shape[1:])
        dist.broadcast(part, rank)
        parts.append(part.cpu())
    return torch.cat(parts)


def _division(slots: int) -> list[range]:
    ranks = dist.get_world_size() if is_distributed() else 1
    return [range(slots * rank // ranks, slots * (rank + 1) // ranks) for rank in range(ranks)]


def sum_over_ranks(tensor: Tensor) -> None:
    """Overwrite `tensor` on every rank with its sum over all ranks."""
    if is_distributed():
        dist.all_reduce(tensor)


def maximum_over_ranks(tensor: Tensor) -> None:
    """Overwrite `tensor` on every rank with its elementwise maximum over all ranks."""
    if is_distributed():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
