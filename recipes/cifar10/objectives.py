"""Objectives beside the paper's that were tried over cached rows alone, for recipes/cifar10/candidates.toml.

`candidate` adds something to CompRess-1q, of which it is otherwise made:

- a head of four layers, as in SimReg (Navaneet et al., BMVC 2021), in place of the linear one;
- regression, 2 - 2 cos, and InfoNCE of the student's embeddings against the teacher's of the same batch, as in CLIP-KD
  (Yang et al., CVPR 2024);
- the mean of the loss at several temperatures;
- the teacher's embeddings minus their mean, so that cosines spread over more than the few tenths that features after
  a ReLU leave them;
- both sides with mean 0 and variance 1 in each dimension, as CompRess's baseline Reg-BN has them;
- the loss of Reg-BN, of the same head's output;
- BatchNorm behind the linear head that starts with the mean and the deviation of the cached embeddings in each
  dimension, so that the student's embeddings lie among the teacher's from the first step on (ours);
- the teacher's embedding of the image itself as one more anchor, as in SEED (Fang et al., ICLR 2021);
- the distribution of one of the image's five nearest neighbours as a second target, another in each step: the bags of
  BINGO (Xu et al., ICLR 2022), whose student sees the neighbour instead.

`learned_projection` has no head: the teacher's embeddings are projected to the student's width, and the student
regresses to them, as in CosPress (Mannix et al. 2024).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.neighbours import read_neighbours
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.builders import anchor_count
from pipeline.objectives.compress import reference_loss
from pipeline.objectives.objective import Objective, l2_normalize, teacher_embedding
from pipeline.objectives.queues import AnchorQueue, mean_of
from pipeline.objectives.regression import regression_bn, standardized
from pipeline.objectives.simreg import two_layers
from pipeline.settings.training import DistillConfig

BAG = 5  # images beside the one itself
INFONCE_TAU = 0.07


class Bags:
    """The neighbours of each training image: graph (N, M), the nearest first."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed, self.graph = split, seed, read_neighbours(split)[:, :BAG]

    def of(self, rows: Tensor, step: int) -> Tensor:
        """Return the teacher's embedding of one neighbour of each of rows (B,), float16 (B, Dt)."""
        place = np.random.default_rng((self.seed, step)).integers(self.graph.shape[1], size=len(rows))
        near = self.split.gather(self.graph[rows.cpu().numpy(), place])
        return torch.from_numpy(near).to(rows.device)


class Candidate(Objective):
    """CompRess-1q with the additions above.

    bags: the neighbours whose distributions are second targets, or None.
    origin, scale: (Dt,), by which the teacher's embeddings are translated and then divided, or None.
    moments: the mean and the deviation (Dt,) with which the head's BatchNorm starts, or None for a head without.
    """

    origin: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        anchors: AnchorQueue,
        *,
        student_dim: int,
        layers: int,
        taus: Sequence[float],
        regression: float,
        regression_bn: float,
        infonce: float,
        own_anchor: bool,
        bags: Bags | None,
        origin: Tensor | None,
        scale: Tensor | None,
        moments: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.anchors, self.student_dim, self.layers = anchors, student_dim, layers
        self.taus, self.regression, self.infonce, self.own_anchor = taus, regression, infonce, own_anchor
        self.regression_bn, self.bags, self.moments = regression_bn, bags, moments
        self.register_buffer("origin", origin, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def head(self) -> nn.Module:
        width, out = self.student_dim, self.anchors.split.shape.dim
        if self.layers == 4:
            return nn.Sequential(*two_layers(width, width), *two_layers(width, out))
        if self.layers == 2:
            return two_layers(width, out)
        return nn.Linear(width, out) if self.moments is None else like_teacher(width, *self.moments)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        self.anchors.move_to(step)
        teacher, anchors = self.moved(teacher_embedding(batch)), self.moved(self.anchors.anchors)
        left_out = self.anchors.slots_of(batch.rows)
        with torch.autocast(teacher.device.type, enabled=False):
            output = embeddings[0].float()
            student = l2_normalize(output if self.scale is None else standardized(output))
            losses = [self.similarity_loss(student, teacher, anchors, left_out, tau) for tau in self.taus]
            loss = torch.stack(losses).mean()
            if self.bags:
                near = self.moved(self.bags.of(batch.rows, step))
                loss = loss + self.similarity_loss(student, near, anchors, left_out, self.taus[0])
            if self.regression:
                loss = loss + self.regression * (student - teacher).square().sum(1).mean()
            if self.regression_bn:
                loss = loss + self.regression_bn * regression_bn(output, teacher)
            if self.infonce:
                loss = loss + self.infonce * infonce(student, teacher)
        return loss

    def similarity_loss(
        self, student: Tensor, teacher: Tensor, anchors: Tensor, left_out: Tensor, tau: float
    ) -> Tensor:
        """Return CompRess's loss, () of (B, Dt) and (K, Dt); with `own_anchor`, over one anchor more for each image."""
        if not self.own_anchor:
            return reference_loss(student, teacher, anchors, anchors, tau, left_out)
        is_self = left_out[:, None] == torch.arange(len(anchors), device=anchors.device)
        student_log_p, teacher_log_p = (
            torch.cat(
                [(query @ anchors.T).masked_fill(is_self, -1e4), (query * teacher).sum(1)[:, None]], dim=1
            )
            .div(tau)
            .log_softmax(1)
            for query in (student, teacher)
        )
        return F.kl_div(student_log_p, teacher_log_p, log_target=True, reduction="batchmean")

    def moved(self, embedding: Tensor) -> Tensor:
        """Return the teacher's embeddings (B, Dt) in float32, translated, divided and then of unit length."""
        if self.origin is None:
            return embedding.float()
        embedding = embedding.float() - self.origin
        return l2_normalize(embedding if self.scale is None else embedding / self.scale)


def infonce(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over images i of -log(exp(s_i . t_i / 0.07) / sum_j exp(s_i . t_j / 0.07)): () of (B, D) each."""
    return F.cross_entropy(
        student @ teacher.T / INFONCE_TAU, torch.arange(len(student), device=student.device)
    )


def candidate(
    config: DistillConfig,
    student_dim: int,
    split: Split,
    rows: NDArray,
    *,
    layers: int = 1,
    taus: str | float = "0.04",
    regression: float = 0.0,
    regression_bn: float = 0.0,
    infonce: float = 0.0,
    center: bool = False,
    standardize: bool = False,
    own: bool = False,
    bags: bool = False,
    matched: bool = False,
) -> Candidate:
    """Build a candidate. taus: separated by "/"; layers: of the head; own: an image's own anchor.

    matched: BatchNorm behind the head, with the cache's moments to start from.
    bags: needs the graph of `cache neighbours`.
    """
    window = AnchorWindow(rows, anchor_count(config.anchors, len(rows)), config.batch_size, config.seed)
    return Candidate(
        AnchorQueue(split, window),
        student_dim=student_dim,
        layers=layers,
        taus=[float(tau) for tau in str(taus).split("/")],
        regression=regression,
        regression_bn=regression_bn,
        infonce=infonce,
        own_anchor=own,
        bags=Bags(split, config.seed) if bags else None,
        origin=mean_of(split, rows) if center or standardize else None,
        scale=deviation_of(split, rows) if standardize else None,
        moments=(mean_of(split, rows), deviation_of(split, rows)) if matched else None,
    )


def like_teacher(width: int, mean: Tensor, deviation: Tensor) -> nn.Sequential:
    """Return Linear, BatchNorm: (B, width) -> (B, Dt), of the given mean and deviation (Dt,) before it is trained."""
    norm = nn.BatchNorm1d(len(mean))
    norm.bias.data.copy_(mean)
    norm.weight.data.copy_(deviation)
    return nn.Sequential(nn.Linear(width, len(mean), bias=False), norm)


def deviation_of(split: Split, rows: NDArray) -> Tensor:
    """Return the standard deviation of the cached embeddings of rows (n,) in each dimension: float32 (Dt,)."""
    deviation = torch.from_numpy(split.gather(rows)).float().std(0)
    return deviation.clamp(min=1e-3 * deviation.max())


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
