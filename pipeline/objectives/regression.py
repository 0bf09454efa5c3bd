"""Regression of the teacher's feature: the baselines Reg and Reg-BN of CompRess (NeurIPS 2020, arXiv 2010.14713)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.compress import l2_normalize, teacher_of
from pipeline.objectives.objective import Objective
from pipeline.runtime.distributed import gather_ranks


class Regression(Objective):
    """The mean over a batch of the squared distance ||s - t||^2 = 2 - 2 cos(s, t) of unit rows, s behind a head.

    student_dim, teacher_dim: widths of the backbone's feature and of the teacher's.
    """

    def __init__(self, *, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = teacher_dim

    def describe(self) -> str:
        return "regression of unit features"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.teacher_dim)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return (l2_normalize(embeddings[0]) - l2_normalize(teacher_of(batch))).square().sum(1).mean()


class RegressionBN(Objective):
    """Regression with BatchNorm, without affine parameters, of both sides in place of unit length.

    The teacher's raw feature is its unit row times its norm: the cache's, or a live teacher's. Both sides have mean 0
    and variance 1 over the batch of all ranks in each dimension, and the squared difference is averaged over
    rows and dimensions: 2 - 2 times the mean correlation, on the scale of `Regression`.

    split: the teacher's cache.
    """

    norm: Tensor

    def __init__(self, split: Split, *, student_dim: int) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = split.shape.dim
        self.register_buffer("norm", torch.from_numpy(split.norm[0].copy()), persistent=False)

    def describe(self) -> str:
        return "regression of features after BatchNorm"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.teacher_dim)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        norm = batch.teacher_norm
        if norm is None:
            norm = self.norm[batch.rows.to(self.norm.device)]
        student = gather_ranks(embeddings[0].float())
        teacher = gather_ranks(teacher_of(batch).float() * norm[:, None])
        return F.mse_loss(standardised(student), standardised(teacher))


def standardised(features: Tensor) -> Tensor:
    """(B, D) with mean 0 and variance 1 in each dimension, B at least 2; a constant dimension becomes 0."""
    return F.batch_norm(features, None, None, training=True)
