"""Nearest neighbours and k-means over embeddings. The only module that imports faiss.

One rule for ties holds everywhere: of rows that are equally near, the one with the lowest number comes first. The
nearest neighbour is then the first of any number of neighbours, on every device.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import ranks_here
from pipeline.runtime.idle_gpu import warn_once

ROWS_PER_CHECK = 65_536
SCORES_AT_ONCE = 2**24
MOST_TIES = 4096
ROUNDING = 1e-6  # of a score, relative to the largest one
FAISS_SEEDS = 2**31  # it takes signed 32-bit integers
GPU_VECTORS_BYTES = 4 * 2**30
GPU_QUERIES_BYTES = 2**30
GPU_NEIGHBOURS = 2048  # faiss finds no more on a GPU


def knn(
    train: NDArray[np.floating], query: NDArray[np.floating], k: int, device: torch.device = CPU
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k rows of train with the highest inner product with each query row, by exact (flat) search.

    train (n, D) and query (m, D): float32 or float16. For unit rows the inner product is the cosine.
    device: a GPU has an effect only if faiss finds one; if not, a warning says why.
    Returns similarities (m, k) float32, descending, and indices (m, k) int64 into train. Of rows with equal similarity,
    the lowest indices are returned, in ascending order.

    Raises:
        PipelineError: rows that are not finite, different dims, or k outside 1..n.
    """
    train, query = _finite_float32(train, "train"), _finite_float32(query, "query")
    if not 1 <= k <= len(train):
        raise PipelineError(
            f"cannot find {k} neighbours among {len(train)} rows; choose k between 1 and {len(train)}"
        )
    _require_equal_dims(query, train)
    return _search(query, train, k, faiss.METRIC_INNER_PRODUCT, device)


def nearest_others(
    x: NDArray[np.floating],
    k: int,
    device: torch.device = CPU,
    part: slice | NDArray[np.int64] = slice(None),
) -> NDArray[np.int64]:
    """Return the k nearest other rows of x (n, D) for each row of a part of it: (m, k) int64, as `knn` finds them.

    part: a slice, or the numbers of rows (m,).
    """
    _, index = knn(x, x[part], k + 1, device)
    own = index == np.arange(len(x))[part][:, None]
    # the row itself is among the nearest, unless more than k others equal it: then the last is left out
    place = np.where(own.any(1), own.argmax(1), k)
    return index[np.arange(k + 1) != place[:, None]].reshape(len(index), k)


def kmeans(
    x: NDArray[np.floating], clusters: int, iterations: int = 20, seed: int = 0, device: torch.device = CPU
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cluster all rows of x (n, D), float32 or float16, by Euclidean k-means from a seeded random start.

    Returns centroids (clusters, D) float32, not normalized, and the index of each row's nearest centroid, (n,) int64.

    Raises:
        PipelineError: rows that are not finite, or fewer rows than clusters.
    """
    x = _finite_float32(x, "x")
    if not 1 <= clusters <= len(x):
        raise PipelineError(
            f"cannot form {clusters} clusters from {len(x)} rows; k-means needs at least one row per cluster"
        )
    clustering = faiss.Kmeans(
        x.shape[1],
        clusters,
        niter=iterations,
        seed=seed % FAISS_SEEDS,
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),  # by default, faiss samples 256 rows per cluster
    )
    if _on_gpu(device):  # faiss's own gpu=True takes every GPU of the machine, those of other ranks too
        resources = faiss.StandardGpuResources()
        clustering.index = faiss.index_cpu_to_gpu(resources, device.index or 0, clustering.index)
    with _all_cores():
        clustering.train(x)
        centroids = clustering.centroids
        assert centroids is not None
        return centroids, nearest_centroid(x, centroids, device)


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let faiss use the cores of all ranks of this machine: the others wait for the one that clusters."""
    before = faiss.omp_get_max_threads()
    if ranks_here() > 1:
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def nearest_centroid(
    x: NDArray[np.floating], centroids: NDArray[np.floating], device: torch.device = CPU
) -> NDArray[np.int64]:
    """Return the index of the centroid with the smallest Euclidean distance: x (n, D), centroids (k, D) -> (n,) int64.

    Of equally near centroids, it is the lowest index.

    Raises:
        PipelineError: rows that are not finite, or different dims.
    """
    x, centroids = _finite_float32(x, "x"), _finite_float32(centroids, "centroids")
    _require_equal_dims(x, centroids)
    return _search(x, centroids, 1, faiss.METRIC_L2, device)[1][:, 0]


def _search(
    query: NDArray[np.float32], base: NDArray[np.float32], k: int, metric: int, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scores and indices (m, k) of the nearest rows, the nearest first and of equally near ones the lowest.

    faiss has its own order of ties, and may cut them off anywhere: where one row more than k is as near as the k-th,
    all rows are compared. Equal rows can have scores that differ in the last bit, since a matrix product sums rows at
    the edge of a block in another order; hence the scores of the rows found are computed again one by one.
    """
    found, index = _faiss_search(query, base, min(k + 1, len(base)), metric, device)
    cut = np.empty(0, np.int64)
    if k < len(base):
        cut = np.flatnonzero(np.abs(found[:, k - 1] - found[:, k]) <= _rounding_error(found))
    score, index = _ranked(query, base, index, metric)
    score, index = score[:, :k].copy(), index[:, :k].copy()
    at_once = max(SCORES_AT_ONCE // len(base), 1)
    for start in range(0, len(cut), at_once):
        rows = cut[start : start + at_once]
        scores = faiss.pairwise_distances(query[rows], base, metric=metric)
        for row, own in zip(rows, -scores if metric == faiss.METRIC_INNER_PRODUCT else scores, strict=True):
            near = _candidates(own, k)
            ranked = _ranked(query[row][None], base, near[None], metric)
            score[row], index[row] = (part[0, :k] for part in ranked)
    return score, index


def _candidates(distance: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return ascending rows among which the k nearest are, given distances (n,) with rounding errors.

    Of rows that are as near as the k-th up to such errors, no more than the first MOST_TIES.
    """
    limit = np.partition(distance, k - 1)[k - 1]
    error = _rounding_error(distance)
    nearer = np.flatnonzero(distance < limit - error)
    tied = np.flatnonzero(np.abs(distance - limit) <= error)[: max(MOST_TIES, k)]
    return np.sort(np.concatenate([nearer, tied]))


def _rounding_error(scores: NDArray[np.float32]) -> float:
    return ROUNDING * max(float(np.abs(scores).max(initial=0)), 1.0)


def _ranked(
    query: NDArray[np.float32], base: NDArray[np.float32], index: NDArray[np.int64], metric: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the scores of these rows (m, c) of base, equal for equal rows, and the rows, the nearest first."""
    score = np.empty(index.shape, np.float32)
    at_once = max(SCORES_AT_ONCE // (index.shape[1] * base.shape[1]), 1)
    for start in range(0, len(query), at_once):
        block = slice(start, start + at_once)
        rows = base[index[block]]
        if metric == faiss.METRIC_INNER_PRODUCT:
            score[block] = np.einsum("mcd,md->mc", rows, query[block])
        else:
            rows -= query[block, None]
            score[block] = np.einsum("mcd,mcd->mc", rows, rows)
    order = np.lexsort((index, -score if metric == faiss.METRIC_INNER_PRODUCT else score))
    return np.take_along_axis(score, order, axis=1), np.take_along_axis(index, order, axis=1)


def _faiss_search(
    query: NDArray[np.float32], base: NDArray[np.float32], k: int, metric: int, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not _on_gpu(device) or k > GPU_NEIGHBOURS:
        return faiss.knn(query, base, k, metric=metric)
    return faiss.knn_gpu(
        faiss.StandardGpuResources(),
        query,
        base,
        k,
        metric=metric,
        device=device.index or 0,
        vectorsMemoryLimit=GPU_VECTORS_BYTES,
        queriesMemoryLimit=GPU_QUERIES_BYTES,
    )


def _require_equal_dims(query: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    if query.shape[1] != base.shape[1]:
        raise PipelineError(
            f"the queries have {query.shape[1]} dimensions and the rows to search have {base.shape[1]}; "
            "compare embeddings of one model only"
        )


def _on_gpu(device: torch.device) -> bool:
    if device.type == "cpu":
        return False
    if not faiss.get_num_gpus():
        _warn_of_idle_gpu()
        return False
    return True


def _warn_of_idle_gpu() -> None:
    if hasattr(faiss, "StandardGpuResources"):
        reason = "faiss-gpu finds no GPU that it can use; a newer driver may help"
    else:
        reason = (
            "faiss-cpu is installed; to search on the GPU, run `pip uninstall faiss-cpu` and then "
            f"`pip install faiss-gpu=={faiss.__version__}`"
        )
    warn_once(f"nearest neighbours are searched on the CPU, because {reason}")


def _finite_float32(x: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    """Return x, or a copy if it is not contiguous float32. PipelineError unless all values are finite."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    # block by block: the mask of a whole training set would take a quarter of its memory
    for start in range(0, len(x), ROWS_PER_CHECK):
        finite = np.isfinite(x[start : start + ROWS_PER_CHECK]).all(axis=1)
        if not finite.all():
            raise PipelineError(
                f"row {start + int(finite.argmin())} of {name} has a value that is not finite; "
                "search among the eligible rows of a store only"
            )
    return x
