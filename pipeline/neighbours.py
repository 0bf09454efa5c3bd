"""Nearest neighbours and k-means over embeddings. The only module that imports faiss."""

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

ROWS_PER_CHECK = 65_536
GPU_VECTORS_BYTES = 4 * 2**30
GPU_QUERIES_BYTES = 2**30


def knn(
    train: NDArray[np.floating], query: NDArray[np.floating], k: int, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k rows of train with the highest inner product with each query row, by exact (flat) search.

    train (n, D) and query (m, D): float32 or float16. For unit rows the inner product is the cosine.
    device: "cuda" has an effect only if faiss was built for GPUs.
    Returns similarities (m, k) float32, descending, and indices (m, k) int64 into train.

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


def kmeans(
    x: NDArray[np.floating], clusters: int, iterations: int = 20, seed: int = 0, device: str = "cpu"
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
        seed=seed,
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),  # by default, faiss samples 256 rows per cluster
        gpu=_on_gpu(device),
    )
    clustering.train(x)
    centroids = clustering.centroids
    assert centroids is not None
    return centroids, nearest_centroid(x, centroids, device)


def nearest_centroid(
    x: NDArray[np.floating], centroids: NDArray[np.floating], device: str = "cpu"
) -> NDArray[np.int64]:
    """Return the index of the centroid with the smallest Euclidean distance: x (n, D), centroids (k, D) -> (n,) int64.

    Raises:
        PipelineError: rows that are not finite, or different dims.
    """
    x, centroids = _finite_float32(x, "x"), _finite_float32(centroids, "centroids")
    _require_equal_dims(x, centroids)
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


def _require_equal_dims(query: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    if query.shape[1] != base.shape[1]:
        raise PipelineError(
            f"the queries have {query.shape[1]} dimensions and the rows to search have {base.shape[1]}; "
            "compare embeddings of one model only"
        )


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") and faiss.get_num_gpus() > 0


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
