"""Rows of stores for the figures: random samples, unit-length embeddings and nearest neighbours."""

import numpy as np
from numpy.typing import NDArray

from cache.reader import Split, Store
from pipeline.images.beton_check import require_same_identity
from pipeline.images.dataset import DatasetSplit
from pipeline.neighbours import knn

BLOCK_ROWS = 16_384


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


def unit_rows(split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return embeddings (n, D) float32, normalized again since float16 is off by up to 5e-4."""
    embedding = split.gather(rows).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding


def nearest_rows(split: Split, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the k eligible rows nearest to each query (m, D) by cosine, the nearest first: (m, k).

    With fewer than k eligible rows, all are returned. Searches in blocks, so the training set need not fit in memory.
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
