"""Regression of the teacher's embedding: the baselines Reg and Reg-BN of CompRess (NeurIPS 2020, arXiv 2010.14713)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective, TeacherNorms, l2_normalize, teacher_embedding
from pipeline.runtime.distributed import all_gather


class Regression(Objective):
    """Mean squared distance ||s - t||^2 = 2 - 2 cos(s, t) between unit embeddings, the student's behind a linear head.

    student_dim, teacher_dim: dims of the backbone's and the teacher's embeddings.
    """

    def __init__(self, *, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = teacher_dim

    def describe(self) -> str:
        return "regression of L2-normalized embeddings"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.teacher_dim)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return (l2_normalize(embeddings[0]) - l2_normalize(teacher_embedding(batch))).square().sum(1).mean()


class RegressionBN(Objective):
    """Regression with BatchNorm, without affine parameters, on both sides instead of L2 normalization.

    The teacher's raw embedding is its unit row times its norm, from the cache or a live teacher. Over the batch of all
    ranks both sides have mean 0 and variance 1 in each dimension. The squared difference is averaged over rows and
    dimensions: 2 - 2 times the mean correlation, on the scale of `Regression`.

    split: the teacher's cache.
    """

    def __init__(self, split: Split, *, student_dim: int) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = split.shape.dim
        self.norms = TeacherNorms(split)

    def describe(self) -> str:
        return "regression of batch-normalized embeddings"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.teacher_dim)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        student = all_gather(embeddings[0].float())
        teacher = all_gather(self.norms.raw_embedding(batch))
        return regression_bn(student, teacher)


def regression_bn(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference, () in float32, after each dimension has mean 0 and variance 1 in the batch.

    student, teacher: (B, D), of the same images; B is at least 2.
    """
    with torch.autocast(student.device.type, enabled=False):
        return F.mse_loss(standardized(student.float()), standardized(teacher.float()))


def standardized(features: Tensor) -> Tensor:
    """Return (B, D) with mean 0 and variance 1 in each dimension; B is at least 2, a constant dimension becomes 0."""
    return F.batch_norm(features, None, None, training=True)
