"""ClusterFit (Yan et al., CVPR 2020, arXiv 1912.03330): classification of the teacher's clusters."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.centroids import clustered
from pipeline.objectives.objective import Objective, to_device
from pipeline.objectives.queues import EMPTY
from pipeline.runtime.distributed import broadcast, on_main_process


class ClusterFit(Objective):
    """Cross-entropy of a linear head over the k-means clusters of the teacher's embeddings.

    split: the teacher's cache. rows: int64 (N,), the training rows, which are clustered.
    clusters: number of clusters, at most a quarter of the rows; CompRess uses 16,000 for ImageNet.

    The first rank runs k-means at the first step, which takes minutes on a big cache. The state is cluster_of_row:
    int32, one entry per row of the split, EMPTY where it was not clustered.
    """

    needs_teacher = False  # the clusters replace its embeddings
    cluster_of_row: Tensor

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64],
        *,
        student_dim: int,
        clusters: int = 16_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.split, self.rows = split, rows
        self.student_dim = student_dim
        self.clusters = max(1, min(clusters, len(rows) // 4))
        self.seed = seed
        self.others: tuple[ClusterFit, ...] = ()  # in a tuple, so that it is no submodule
        self.register_buffer("cluster_of_row", torch.full((split.shape.rows,), EMPTY, dtype=torch.int32))

    def describe(self) -> str:
        return f"ClusterFit, {self.clusters:,} clusters"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.clusters)

    def share(self, first: Objective) -> None:
        assert isinstance(first, ClusterFit), type(first)
        self.others = (first,)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        if step == 0:
            self.cluster()
        clusters = self.cluster_of_row[batch.rows.to(self.cluster_of_row.device)].long()
        return F.cross_entropy(embeddings[0].float(), clusters)

    def cluster(self) -> None:
        """Cluster the rows on the first rank, or copy the clusters of another student of the pass."""
        for other in self.others:
            if (other.cluster_of_row != EMPTY).any():
                self.cluster_of_row.copy_(other.cluster_of_row)
                return
        on_main_process(self.find)
        broadcast(self.cluster_of_row)

    def find(self) -> None:
        """Run k-means over the training rows."""
        device = self.cluster_of_row.device
        _, _, found = clustered(self.split, self.rows, self.clusters, self.seed, device)
        clusters = to_device(found, device).to(self.cluster_of_row.dtype)
        self.cluster_of_row[to_device(self.rows, device)] = clusters
