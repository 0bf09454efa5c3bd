"""The rows of a cache that a run trains on, and why the others are excluded.

With --partial, a run trains to its end on the chunks that were written when it began.
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
from pipeline.results.records import is_run
from pipeline.results.run_record import read_config
from pipeline.runtime.distributed import World


def require_complete(split: Split) -> None:
    """Raise IncompleteStore, with the number of rows that are there, unless every chunk is written."""
    try:
        split.require_complete()
    except IncompleteStore as error:
        there = f"{(split.status != Status.ABSENT).all(0).sum():,} of {split.shape.rows:,} rows"
        raise IncompleteStore(f"{error}; or train on what is there, {there}, with --partial") from error


def written_chunks(split: Split) -> list[int]:
    """Return the chunks that are written in all of the split's views, ascending."""
    absent = {key.index for key in split.absent}
    return [index for index in range(split.shape.chunks) if index not in absent]


def training_chunks(split: Split, runs: Sequence[Path], world: World, device: torch.device) -> list[int]:
    """Return the chunks that `distill --partial` trains on: those recorded by a run to resume, or all that are written.

    The ranks agree on the chunks that all of them see, as each opened the cache on its own, maybe while it grew.
    Raises IncompleteStore if a recorded chunk is gone.
    """
    written = written_chunks(split)
    run = next(filter(is_run, runs), None)
    recorded = read_config(run)["made_of"].get("chunks") if run else None
    gone = sorted(set(recorded or []) - set(written))
    if gone:
        raise IncompleteStore(
            f"{run} began with chunks of {split.path} that are missing ({', '.join(map(str, gone))}); "
            "run the command that writes the cache again, or choose a new run folder"
        )
    seen = torch.zeros(split.shape.chunks, dtype=torch.int32, device=device)
    seen[written if recorded is None else recorded] = 1
    if world.size > 1:
        dist.all_reduce(seen, dist.ReduceOp.MIN)
    return [int(index) for index in seen.nonzero()[:, 0]]


def trainable_rows(split: Split, chunks: list[int]) -> NDArray[np.int64]:
    """Return the rows of these chunks with an embedding in all of the split's views, int64 (n,), ascending.

    PipelineError if there are none.
    """
    eligible = split.eligible(range(split.shape.views))
    rows = eligible[np.isin(eligible // split.shape.chunk_rows, chunks)]
    if not rows.size:
        raise PipelineError(
            f"no row of the split '{split.name}' of {split.path} has an embedding to train with: "
            f"{describe_excluded(split, chunks)}"
        )
    return rows


def describe_excluded(split: Split, chunks: list[int]) -> str:
    """Return the number of excluded rows for each reason, as text; "" if there are none."""
    status = split.status
    among = np.isin(np.arange(split.shape.rows) // split.shape.chunk_rows, chunks)
    counts = {
        f"in {split.shape.chunks - len(chunks)} of {split.shape.chunks} chunks not cached yet": ~among,
        "unreadable": among & (status == Status.UNREADABLE).any(0),
        "with a zero or non-finite embedding": among & (status == Status.DEGENERATE).any(0),
    }
    return ", ".join(f"{rows.sum():,} {why}" for why, rows in counts.items() if rows.any())
