"""The teacher's nearest neighbours of an image, as anchors of its own."""

import hashlib

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.reader import Split
from pipeline.objectives.objective import staged


class NeighbourAnchors(nn.Module):
    """The neighbours of each image, which join the anchors that are drawn for all.

    split: the teacher's cache. graph: int32 (N, M), the neighbours of each of its rows; all are training rows.
    drawn_from: the number of images that a random anchor may be: the training rows, without an image's own and its
    neighbours'.

    Of the sum over all images, Z = sum_j exp(l_j), nearly all is in few terms: those of the neighbours. These are
    summed exactly, and the rest is estimated from R random images of the remaining `drawn_from`:

        Z' = sum_{neighbours} exp(l_j) + drawn_from / R sum_{random} exp(l_j)

    Its mean is Z, and its variance is that of the small terms alone. The loss uses the same anchors and weights for
    student and teacher: it is that of the full softmax, restricted to them.

    A step waits once for the device, as it reads the neighbours of rows that are there. sha256: of the graph.
    """

    graph: Tensor

    def __init__(self, split: Split, graph: NDArray, training_rows: int) -> None:
        super().__init__()
        self.split = split
        self.sha256 = hashlib.sha256(graph.tobytes()).hexdigest()
        self.drawn_from = training_rows - 1 - graph.shape[1]
        self.register_buffer("graph", torch.from_numpy(graph), persistent=False)

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the neighbours of rows (B,): their rows, int64 (B, M), and embeddings, float16 (B, M, Dt)."""
        near = self.graph[rows.to(self.graph.device)].long()
        embedding = self.split.gather(near.view(-1).cpu().numpy())
        found = staged(embedding, near.device).to(near.device, non_blocking=True)
        return near, found.view(*near.shape, -1)
