"""Objectives beside the paper's that were tried over cached rows alone, for recipes/cifar10/candidates.toml.

`candidate` adds something to CompRess-1q, of which it is otherwise made:

- a head of four layers, as in SimReg (Navaneet et al., BMVC 2021), in place of the linear one;
- regression, 2 - 2 cos, and InfoNCE of the student's embeddings against the teacher's of the same batch, as in CLIP-KD
  (Yang et al., CVPR 2024);
- the mean of the loss at several temperatures;
- the teacher's embeddings minus their mean, so that cosines spread over more than the few tenths that features after
  a ReLU leave them.

`learned_projection` has no head: the teacher's embeddings are projected to the student's width, and the student
regresses to them, as in CosPress (Mannix et al. 2024).
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


class Projection(nn.Module):
    """A student without a head, beside a projection of the teacher's embeddings to its width, with a ReLU as it has."""

    def __init__(self, teacher_dim: int, student_dim: int) -> None:
        super().__init__()
        self.teacher = nn.Linear(teacher_dim, student_dim, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        return feature


class LearnedProjection(Objective):
    """2 - 2 cos of the student and the projected teacher. The projection learns to keep the batch's similarities:

    the symmetric KL divergence of their softmax before and after it, averaged over several temperatures.
    """

    def __init__(self, student_dim: int, teacher_dim: int, taus: Sequence[float]) -> None:
        super().__init__()
        self.student_dim, self.teacher_dim, self.taus = student_dim, teacher_dim, taus

    def head(self) -> nn.Module:
        head = Projection(self.teacher_dim, self.student_dim)
        self.projection = (head,)  # in a tuple: its parameters belong to the network, not to the objective
        return head

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        student, teacher = l2_normalize(embeddings[0]), teacher_embedding(batch).float()
        with torch.autocast(student.device.type, enabled=False):
            projected = l2_normalize(self.projection[0].teacher(teacher).relu())
            kept = torch.stack([self.symmetric(projected, teacher, tau) for tau in self.taus]).mean()
            return kept + (student - projected.detach()).square().sum(1).mean()

    def symmetric(self, one: Tensor, two: Tensor, tau: float) -> Tensor:
        """Return KL(p || q) + KL(q || p) of the softmax over the other images of the batch, a mean over images."""
        p, q = (((rows @ rows.T / tau).fill_diagonal_(-1e4)).log_softmax(1) for rows in (one, two))
        return ((p.exp() - q.exp()) * (p - q)).sum(1).mean()


def learned_projection(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray, *, taus: str | float = "0.04/0.1"
) -> LearnedProjection:
    """Build `LearnedProjection`. taus: separated by "/"."""
    return LearnedProjection(student_dim, split.shape.dim, [float(tau) for tau in str(taus).split("/")])
