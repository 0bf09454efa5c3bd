"""Objectives beside the paper's that were tried over cached rows alone, for recipes/cifar10/candidates.toml.

Each adds something to CompRess-1q, of which it is otherwise made:

- a head of four layers, as in SimReg (Navaneet et al., BMVC 2021), in place of the linear one;
- regression, 2 - 2 cos, and InfoNCE of the student's embeddings against the teacher's of the same batch, as in CLIP-KD
  (Yang et al., CVPR 2024);
- the mean of the loss at several temperatures;
- the teacher's embeddings minus their mean, so that cosines spread over more than the few tenths that features after
  a ReLU leave them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.builders import anchor_count
from pipeline.objectives.compress import reference_loss
from pipeline.objectives.objective import Objective, l2_normalize, teacher_embedding
from pipeline.objectives.queues import AnchorQueue, mean_of
from pipeline.objectives.simreg import two_layers
from pipeline.settings.training import DistillConfig

INFONCE_TAU = 0.07


class Candidate(Objective):
    """CompRess-1q with the additions above. origin: (Dt,), subtracted from the teacher's embeddings, or None."""

    origin: Tensor | None

    def __init__(
        self,
        anchors: AnchorQueue,
        *,
        student_dim: int,
        layers: int,
        taus: Sequence[float],
        regression: float,
        infonce: float,
        origin: Tensor | None,
    ) -> None:
        super().__init__()
        self.anchors, self.student_dim, self.layers = anchors, student_dim, layers
        self.taus, self.regression, self.infonce = taus, regression, infonce
        self.register_buffer("origin", origin, persistent=False)

    def head(self) -> nn.Module:
        width, out = self.student_dim, self.anchors.split.shape.dim
        if self.layers == 4:
            return nn.Sequential(*two_layers(width, width), *two_layers(width, out))
        return two_layers(width, out) if self.layers == 2 else nn.Linear(width, out)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        self.anchors.move_to(step)
        student, teacher = l2_normalize(embeddings[0]), self.centered(teacher_embedding(batch))
        anchors, own = self.centered(self.anchors.anchors), self.anchors.slots_of(batch.rows)
        with torch.autocast(student.device.type, enabled=False):
            losses = [reference_loss(student, teacher, anchors, anchors, tau, own) for tau in self.taus]
            loss = torch.stack(losses).mean()
            if self.regression:
                loss = loss + self.regression * (student - teacher).square().sum(1).mean()
            if self.infonce:
                images = torch.arange(len(student), device=student.device)
                loss = loss + self.infonce * F.cross_entropy(student @ teacher.T / INFONCE_TAU, images)
        return loss

    def centered(self, embedding: Tensor) -> Tensor:
        """Return the teacher's embeddings (B, Dt) in float32, minus their mean and of unit length if it is left out."""
        return embedding.float() if self.origin is None else l2_normalize(embedding.float() - self.origin)


def candidate(
    config: DistillConfig,
    student_dim: int,
    split: Split,
    rows: NDArray,
    *,
    layers: int = 1,
    taus: str | float = "0.04",
    regression: float = 0.0,
    infonce: float = 0.0,
    center: bool = False,
) -> Candidate:
    """Build a candidate. taus: separated by "/"; layers: of the head."""
    window = AnchorWindow(rows, anchor_count(config.anchors, len(rows)), config.batch_size, config.seed)
    return Candidate(
        AnchorQueue(split, window),
        student_dim=student_dim,
        layers=layers,
        taus=[float(tau) for tau in str(taus).split("/")],
        regression=regression,
        infonce=infonce,
        origin=mean_of(split, rows) if center else None,
    )
