"""Rows of stores for the figures: random samples, unit-length embeddings and nearest neighbours."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from cache.reader import Split, Store
from pipeline.evaluate.features import unit_rows
from pipeline.evaluate.fidelity import nearest
from pipeline.images.beton_check import require_same_identity
from pipeline.images.dataset import DatasetSplit


def open_split(store: Store, dataset: DatasetSplit) -> Split:
    """Return the store's split of these images. Raises StoreError if it is incomplete or of other images."""
    split = store.split(dataset.name)
    require_same_identity(split, dataset)
    split.require_complete()
    return split


def sample_rows(split: Split, most: int, seed: int) -> NDArray[np.int64]:
    """Draw at most so many eligible rows, without replacement; returned in ascending order."""
    rows = split.eligible()
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def nearest_rows(split: Split, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the k eligible rows nearest to each query (m, D) by cosine, the nearest first: (m, k).

    With fewer than k eligible rows, all are returned.
    """
    return nearest(partial(unit_rows, split), split.eligible(), query, k)[1]
