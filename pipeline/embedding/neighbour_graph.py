"""`cache neighbours`: find each training image's nearest neighbours among the others, and keep them in the store."""

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import IncompleteStore
from cache.lock import sole_writer
from cache.metadata import archive_of
from cache.neighbours import EMPTY, has_neighbours, read_neighbours, write_neighbours
from cache.reader import Split, open_store
from cache.user_folder import as_typed
from pipeline.errors import WrongUse
from pipeline.neighbours import nearest_others
from pipeline.runtime.device import resolve_device
from pipeline.runtime.progress import Progress
from pipeline.settings.cache_commands import NeighboursConfig

SPLIT = "train"
QUERIES_AT_ONCE = 65_536  # each search checks all rows, and copies them to a GPU


def cache_neighbours(config: NeighboursConfig) -> None:
    """Run the `cache neighbours` command.

    Raises WrongUse if there is a graph already, or are too few rows; IncompleteStore for a store that lacks chunks.
    """
    if archive_of(config.cache):
        raise WrongUse(
            f"{config.cache} is an archive, to which nothing can be added; make a store of it with "
            f"`python cli.py cache convert {config.cache} OUT.zarr --as fp16`"
        )
    split = open_store(config.cache, views=1).split(SPLIT)
    if has_neighbours(config.cache, SPLIT):
        width = read_neighbours(split).shape[1]
        if width == config.k:
            print(f"{as_typed(config.cache)}: the graph of {width} neighbours is there already")
            return
        raise WrongUse(
            f"--k {config.k}: {config.cache} has a graph of {width} neighbours; delete "
            f"{config.cache / SPLIT / 'neighbours'} first"
        )
    try:
        split.require_complete()
    except IncompleteStore as error:
        raise IncompleteStore(f"{error}; neighbours are searched among all images") from error
    rows = split.eligible()
    if config.k >= len(rows):
        raise WrongUse(
            f"--k {config.k}: of {len(rows):,} images each has at most {len(rows) - 1:,} neighbours"
        )
    device = resolve_device(config.device)
    with sole_writer(config.cache):  # before the search, which may take long
        write_neighbours(config.cache, SPLIT, search(split, rows, config.k, device))
    print(f"{as_typed(config.cache)}: {config.k} neighbours of each of {len(rows):,} images")


def search(split: Split, rows: NDArray[np.int64], k: int, device: torch.device) -> NDArray[np.int32]:
    """Return the graph (N, k) of a split, with neighbours of these rows among each other; others have EMPTY."""
    embedding = split.gather(rows).astype(np.float32)
    graph = np.full((split.shape.rows, k), EMPTY, np.int32)
    with Progress(total=len(rows), unit=" images") as bar:
        for start in range(0, len(rows), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            found = nearest_others(embedding, k, device, part)
            graph[rows[part]] = rows[found]
            bar.update(len(found))
    return graph
