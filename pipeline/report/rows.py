"""Rows of stores for the figures: drawn by a seed, of unit length, and their nearest neighbours."""

import numpy as np
from numpy.typing import NDArray

from cache.errors import IdentityMismatch
from cache.identity import identity_difference
from cache.reader import Split, Store
from pipeline.images.dataset import DatasetSplit
from pipeline.neighbours import knn

BLOCK_ROWS = 16_384


def split_of(store: Store, dataset: DatasetSplit) -> Split:
    """The store's split of these images. Raises StoreError when it is incomplete or of other images."""
    split = store.split(dataset.name)
    differences = identity_difference(dataset.identity, split.dataset)
    if differences:
        raise IdentityMismatch(f"{store.path} was made of another dataset: {'; '.join(differences)}")
    split.require_complete()
    return split


def drawn(split: Split, most: int, seed: int) -> NDArray[np.int64]:
    """At most so many eligible rows, drawn by the seed, ascending."""
    rows = split.eligible()
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def unit_rows(split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Embeddings (n, D) float32 of exactly unit length; float16 had moved them by up to 5e-4."""
    embedding = split.gather(rows).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding


def nearest_rows(split: Split, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k eligible rows of highest cosine with each query (m, D), best first: (m, k), fewer if there are fewer.

    Searched block by block, so that a whole training set never lies in memory.
    """
    rows = split.eligible()
    best_score = np.empty((len(query), 0), np.float32)
    best_row = np.empty((len(query), 0), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        score, index = knn(unit_rows(split, block), query, min(k, len(block)))
        scores, found = np.hstack([best_score, score]), np.hstack([best_row, block[index]])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best_score = np.take_along_axis(scores, order, axis=1)
        best_row = np.take_along_axis(found, order, axis=1)
    return best_row
