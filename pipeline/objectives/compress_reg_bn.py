"""CompRess-1q and Reg-BN at once: similarities to anchors, and regression of the embedding itself, from one head.

Both are of CompRess (NeurIPS 2020, arXiv 2010.14713), 1q as its method and Reg-BN as a baseline; their sum is ours.
"""

from collections.abc import Sequence

from torch import Tensor

from pipeline.loading.batch import Batch
from pipeline.objectives.compress import Compress1q
from pipeline.objectives.objective import l2_normalize
from pipeline.objectives.regression import regression_bn
from pipeline.runtime.distributed import all_gather

WEIGHT = 5.0  # of the regression, whose gradient has no 1 / tau


class Compress1qRegBN(Compress1q):
    """The sum of CompRess-1q's loss and of WEIGHT times `regression_bn` over the batch of all ranks."""

    def describe(self) -> str:
        return f"{super().describe()}, and {WEIGHT:g} times Reg-BN"

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        student = all_gather(embeddings[0].float())
        teacher = self.teacher.shared(batch, step).everyone
        similarity = self.teacher.loss(l2_normalize(student), batch, step)
        return similarity + WEIGHT * regression_bn(student, teacher)
