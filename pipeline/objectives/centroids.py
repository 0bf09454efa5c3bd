"""Anchors that do not move: centroids of the teacher's embeddings, each of which stands for its cluster."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.reader import Split
from pipeline.objectives.objective import to_device
from pipeline.objectives.queues import EMPTY, fetch
from pipeline.objectives.shards import slots_of_rank
from pipeline.runtime.distributed import broadcast, on_main_process
from pipeline.runtime.progress import Progress


class Centroids(nn.Module):
    """`size` k-means centroids of the training rows, in the place of an `AnchorQueue`.

    A centroid is the mean of its cluster's unit embeddings and is not normalized: of all points, its similarity to a
    query is the mean of theirs. anchors, counts: of this rank's share, float16 (slots, Dt), and the number of images
    in each cluster, float32 (slots,). If `centered`, anchors are minus `origin`, float32 (Dt,), the mean of all images,
    for the reason that `AnchorQueue` gives. The first rank runs k-means at the first step; the state is all centroids.
    """

    centroids: Tensor
    cluster_sizes: Tensor
    origin: Tensor

    def __init__(
        self, split: Split, rows: NDArray[np.int64], size: int, seed: int, *, centered: bool = False
    ) -> None:
        super().__init__()
        self.split, self.training_rows, self.total, self.seed = split, rows, size, seed
        self.held, self.centered = slots_of_rank(size), centered
        self.found = False
        self.register_load_state_dict_post_hook(Centroids._loaded)
        self.register_buffer("centroids", torch.zeros(size, split.shape.dim, dtype=torch.float16))
        self.register_buffer("cluster_sizes", torch.zeros(size))
        self.register_buffer("origin", torch.zeros(split.shape.dim))

    @property
    def anchors(self) -> Tensor:
        return self.centroids[self.held.start : self.held.stop]

    @property
    def counts(self) -> Tensor:
        return self.cluster_sizes[self.held.start : self.held.stop]

    def move_to(self, step: int) -> None:
        """Find the centroids, at the first step; they serve all others."""
        if step == 0 and not self.found:
            on_main_process(self.find)
            for buffer in (self.centroids, self.cluster_sizes, self.origin):
                broadcast(buffer)
            self.found = True

    def _loaded(self, incompatible_keys: object) -> None:
        self.found = bool(self.cluster_sizes.any())

    def find(self) -> None:
        """Run k-means over the training rows."""
        device = self.centroids.device
        embedding, centroids, cluster = clustered(
            self.split, self.training_rows, self.total, self.seed, device
        )
        sizes = np.bincount(cluster, minlength=self.total).astype(np.float32)
        if self.centered:
            origin = embedding.mean(0)
            centroids = centroids - origin
            self.origin.copy_(to_device(origin, device))
        self.centroids.copy_(to_device(centroids, device))
        self.cluster_sizes.copy_(to_device(sizes, device))

    def slots_of(self, rows: Tensor) -> Tensor:
        """Return -1 for each row, as no anchor is an image: int64, of the shape of rows."""
        return torch.full_like(rows, EMPTY, device=self.centroids.device)

    def center(self, embedding: Tensor) -> Tensor:
        """Return embeddings (B, Dt) in the space of the anchors."""
        return embedding.float() - self.origin if self.centered else embedding


def clustered(
    split: Split, rows: NDArray[np.int64], clusters: int, seed: int, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Run k-means over rows (N,) of a cache.

    Returns their embeddings (N, Dt), the centroids (clusters, Dt), and each row's cluster (N,).
    """
    from pipeline.neighbours import kmeans  # here, so that other objectives need no faiss

    Progress.write(f"k-means: {len(rows):,} embeddings ({split.shape.dim}-d), {clusters:,} clusters")
    embedding = np.empty((len(rows), split.shape.dim), np.float32)
    fetch(split, np.arange(len(rows)), rows, torch.from_numpy(embedding))
    return embedding, *kmeans(embedding, clusters, seed=seed, device=device)
