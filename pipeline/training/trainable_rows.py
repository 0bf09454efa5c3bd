"""The rows of a cache that a run trains on, and why the others are left out.

With --partial they are those of the chunks that were there when the run began, and of these alone to its end.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from cache.errors import IncompleteStore
from cache.layout import Status
from cache.reader import Split
from pipeline.errors import PipelineError
from pipeline.results.run_record import read_config
from pipeline.runtime.distributed import World


def require_whole(split: Split) -> None:
    """Raise IncompleteStore, which says how much is there, unless every chunk is."""
    try:
        split.require_complete()
    except IncompleteStore as error:
        there = f"{(split.status[0] != Status.ABSENT).sum():,} of {split.shape.rows:,} rows"
        raise IncompleteStore(f"{error}; or train on what is there, {there}, with --partial") from error


def chunks_there(split: Split) -> list[int]:
    """The chunks of view 0 that are written, ascending."""
    absent = {key.index for key in split.absent if key.view == 0}
    return [index for index in range(split.shape.chunks) if index not in absent]


def chunks_of_run(split: Split, runs: Sequence[Path], world: World, device: str) -> list[int]:
    """The chunks that runs of `distill --partial` train on: those that the first begun of them began with, or all
    that are there.

    Each rank opened the cache for itself, maybe while it grew: they agree on what all of them see.
    Raises IncompleteStore when a chunk that the run began with is gone.
    """
    there = chunks_there(split)
    run = next((run for run in runs if (run / "config.json").exists()), None)
    begun = read_config(run)["made_of"].get("chunks") if run else None
    gone = sorted(set(begun or []) - set(there))
    if gone:
        raise IncompleteStore(
            f"{run} began with chunks of {split.path} that are not there ({', '.join(map(str, gone))}); "
            "run the command that writes the cache again, or name a new run folder"
        )
    seen = torch.zeros(split.shape.chunks, dtype=torch.int32, device=device)
    seen[there if begun is None else begun] = 1
    if world.size > 1:
        dist.all_reduce(seen, dist.ReduceOp.MIN)
    return [int(index) for index in seen.nonzero()[:, 0]]


def usable_rows(split: Split, chunks: list[int]) -> NDArray[np.int64]:
    """The rows (n,) int64 of these chunks that have an embedding, ascending. PipelineError if there are none."""
    eligible = split.eligible()
    rows = eligible[np.isin(eligible // split.shape.chunk_rows, chunks)]
    if not rows.size:
        raise PipelineError(
            f"no row of the split '{split.name}' of {split.path} has an embedding to train with: "
            f"{left_out(split, chunks)}"
        )
    return rows


def left_out(split: Split, chunks: list[int]) -> str:
    """How many rows cannot be trained on, for each reason; "" when all can be."""
    status = split.status[0]
    among = np.isin(np.arange(split.shape.rows) // split.shape.chunk_rows, chunks)
    counts = {
        f"in {split.shape.chunks - len(chunks)} of {split.shape.chunks} chunks not cached yet": ~among,
        "unreadable": among & (status == Status.UNREADABLE),
        "with a zero or non-finite embedding": among & (status == Status.DEGENERATE),
    }
    return ", ".join(f"{rows.sum():,} {why}" for why, rows in counts.items() if rows.any())
