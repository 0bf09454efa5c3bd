"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): contrast of two augmented views."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.runtime.distributed import all_gather


def nt_xent(z1: Tensor, z2: Tensor, tau: float) -> Tensor:
    """Return NT-Xent, SimCLR's eq. 1, averaged over all 2B positive pairs: a scalar.

    z1, z2: (B, D), projections of the two views of B images. Both are normalized here; the computation is in at
    least float32, also under autocast.
    """
    pairs = len(z1)
    with torch.autocast(z1.device.type, enabled=False):
        z = torch.cat([z1, z2])  # (2B, D)
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
        logits = (z @ z.T / tau).fill_diagonal_(-torch.inf)  # (2B, 2B)
        positives = torch.arange(2 * pairs, device=z.device).roll(pairs)
        return F.cross_entropy(logits, positives)


class SimCLR(Objective):
    """SimCLR with in-batch negatives from all ranks. The default temperature is the paper's on ImageNet.

    student_dim: dim of the backbone's embedding. projection_dim: dim in which views are contrasted.
    """

    views = 2
    needs_teacher = False

    def __init__(self, student_dim: int, *, projection_dim: int = 128, tau: float = 0.1) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.projection_dim = projection_dim
        self.tau = tau

    def head(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.student_dim, self.student_dim, bias=False),
            nn.BatchNorm1d(self.student_dim),
            nn.ReLU(inplace=True),
            nn.Linear(self.student_dim, self.projection_dim),
        )

    def describe(self) -> str:
        return f"SimCLR, tau {self.tau}"

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        first, second = embeddings
        return nt_xent(all_gather(first), all_gather(second), self.tau)
