"""SEED (Fang et al., ICLR 2021, arXiv 2101.04731): a sharper teacher, and the image itself as one more anchor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.anchored_teacher import AnchoredTeacher
from pipeline.objectives.objective import Objective, l2_normalize
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.runtime.distributed import all_gather

DEFAULT_ANCHORS = 65_536


class Seed(Objective):
    """CompRess-1q with these differences, from the paper's eqs. 2 to 5:

    - the teacher's embedding of the image is one more anchor, for that image alone;
    - the teacher's temperature `tau` is far below the student's `student_tau`;
    - the student's head has two layers, with ReLU between them.

    The loss is the paper's cross-entropy minus the teacher's entropy, which has no gradient, so that its minimum is 0.
    The paper compares 128-d outputs of MoCo's projection head; here it is the embedding that the cache holds.

    split: the teacher's cache. window: which of its rows are anchors at each step. product_dtype, tf32: of
    the products with the anchors, see `SimilarityLoss`. It saves no state.
    """

    def __init__(
        self,
        split: Split,
        window: AnchorWindow,
        *,
        student_dim: int,
        tau: float = 0.01,
        student_tau: float = 0.2,
        product_dtype: torch.dtype = torch.float32,
        tf32: bool = False,
    ) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = split.shape.dim
        self.tau = tau
        self.student_tau = student_tau
        loss = SimilarityLoss(tau=student_tau, teacher_tau=tau, product_dtype=product_dtype, tf32=tf32)
        queue = AnchorQueue(split, window, centered=product_dtype == torch.bfloat16)
        self.anchor_count = window.size
        self.teacher = AnchoredTeacher(queue, loss, own_anchor=True)

    def describe(self) -> str:
        return f"SEED, {self.anchor_count:,} anchors, teacher tau {self.tau}, student tau {self.student_tau}"

    def head(self) -> nn.Module:
        width = self.student_dim
        return nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, self.teacher_dim)
        )

    def share(self, first: Objective) -> None:
        assert isinstance(first, Seed), type(first)
        self.teacher = first.teacher

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return self.teacher.loss(all_gather(l2_normalize(embeddings[0])), batch, step)
