"""SEED: a sharp teacher's distribution over anchors and the image itself (Fang et al., ICLR 2021, arXiv 2101.04731)."""

from collections.abc import Sequence

from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.anchored_teacher import AnchoredTeacher
from pipeline.objectives.compress import l2_normalize
from pipeline.objectives.objective import Objective

DEFAULT_ANCHORS = 65_536


class Seed(Objective):
    """Similarities to the teacher's anchors as in CompRess-1q, with these differences of the paper's eqs. 2 to 5:

    - the teacher's own embedding of the image is one more anchor, for that image alone;
    - the teacher's temperature `tau` is far below the student's `student_tau`;
    - the student's head has two layers, with ReLU between them.

    The loss is the paper's cross-entropy less the teacher's entropy, which no gradient sees, so that it ends at 0.
    The paper compares 128-d outputs of MoCo's projection; here it is the feature that the cache holds.

    split: the teacher's cache. window: which of its rows are anchors at a step. There is no state to save.
    """

    def __init__(
        self,
        split: Split,
        window: AnchorWindow,
        *,
        student_dim: int,
        tau: float = 0.01,
        student_tau: float = 0.2,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = split.shape.dim
        self.tau = tau
        self.student_tau = student_tau
        self.teacher = AnchoredTeacher(split, window, tau=tau, own_anchor=True, precision=precision)

    def describe(self) -> str:
        return (
            f"SEED, {self.teacher.ring.size:,} anchors, tau {self.tau} of the teacher and {self.student_tau}"
        )

    def head(self) -> nn.Module:
        width = self.student_dim
        return nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, self.teacher_dim)
        )

    def share(self, first: Objective) -> None:
        assert isinstance(first, Seed), type(first)
        self.teacher = first.teacher

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return self.teacher.divergence(l2_normalize(embeddings[0]), batch, step, tau=self.student_tau)
