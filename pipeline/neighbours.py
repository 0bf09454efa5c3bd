"""Nearest neighbours and k-means over rows of embeddings: the only door to faiss."""

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

CHECKED_ROWS = 65_536
GPU_VECTORS_BYTES = 4 * 2**30
GPU_QUERIES_BYTES = 2**30


def knn(
    train: NDArray[np.floating], query: NDArray[np.floating], k: int, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of train with the highest inner product with each query row, exactly (flat search).

    train (n, D) and query (m, D), float32 or float16; with unit rows the inner product is the cosine.
    Returns similarity (m, k) float32, descending, and index (m, k) int64 into train.
    A "cuda" device is used where faiss was built for GPUs; elsewhere the search runs on the CPU.

    Raises:
        PipelineError: rows that are not finite, unequal widths, or k outside 1..n.
    """
    train, query = _finite_float32(train, "train"), _finite_float32(query, "query")
    if not 1 <= k <= len(train):
        raise PipelineError(
            f"asked for {k} neighbours among {len(train)} rows; choose k between 1 and {len(train)}"
        )
    _require_equal_widths(query, train)
    return _search(query, train, k, faiss.METRIC_INNER_PRODUCT, device)


def kmeans(
    x: NDArray[np.floating], clusters: int, iterations: int = 20, seed: int = 0, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Euclidean k-means over every row of x (n, D), float32 or float16, from a seeded random start.

    Returns centroids (clusters, D) float32, not normalised, and each row's nearest centroid (n,) int64.

    Raises:
        PipelineError: rows that are not finite, or fewer rows than clusters.
    """
    x = _finite_float32(x, "x")
    if not 1 <= clusters <= len(x):
        raise PipelineError(
            f"asked for {clusters} clusters of {len(x)} rows; k-means needs at least one row a cluster"
        )
    clustering = faiss.Kmeans(
        x.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),  # faiss would otherwise drop all but 256 rows a cluster
        gpu=_on_gpu(device),
    )
    clustering.train(x)
    centroids = clustering.centroids
    assert centroids is not None
    return centroids, nearest_centroid(x, centroids, device)


def nearest_centroid(
    x: NDArray[np.floating], centroids: NDArray[np.floating], device: str = "cpu"
) -> NDArray[np.int64]:
    """The centroid at the smallest Euclidean distance: x (n, D), centroids (k, D) -> (n,) int64.

    Raises:
        PipelineError: rows that are not finite, or unequal widths.
    """
    x, centroids = _finite_float32(x, "x"), _finite_float32(centroids, "centroids")
    _require_equal_widths(x, centroids)
    return _search(x, centroids, 1, faiss.METRIC_L2, device)[1][:, 0]


def _search(
    query: NDArray[np.float32], base: NDArray[np.float32], k: int, metric: int, device: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not _on_gpu(device):
        return faiss.knn(query, base, k, metric=metric)
    return faiss.knn_gpu(
        faiss.StandardGpuResources(),
        query,
        base,
        k,
        metric=metric,
        vectorsMemoryLimit=GPU_VECTORS_BYTES,
        queriesMemoryLimit=GPU_QUERIES_BYTES,
    )


def _require_equal_widths(query: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    if query.shape[1] != base.shape[1]:
        raise PipelineError(
            f"the rows searched with have {query.shape[1]} dimensions and the rows searched among have "
            f"{base.shape[1]}; compare embeddings of one model only"
        )


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") and faiss.get_num_gpus() > 0


def _finite_float32(x: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    """x itself where it already is contiguous float32, else one float32 copy."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    # Block by block: the mask of a whole training set would be a quarter of its size again.
    for start in range(0, len(x), CHECKED_ROWS):
        finite = np.isfinite(x[start : start + CHECKED_ROWS]).all(axis=1)
        if not finite.all():
            raise PipelineError(
                f"row {start + int(finite.argmin())} of {name} has a value that is not finite; "
                "search among the eligible rows of a store only"
            )
    return x
