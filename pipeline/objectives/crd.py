"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699), in its NCE form.

The raw embeddings of student and teacher are projected to 128-d. Each is contrasted with the other's memory, which
holds one projection per row: the row's own is the positive, those of K other rows are the negatives. With
z = cosine / tau, N rows and P = exp(z) / Z, the paper's critic is h = P / (P + K/N). Its authors fix Z at the first
batch, as N times the mean of exp(z) over that batch's positives and negatives: N cancels, and
h = sigmoid(z - log(K mean)).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective, TeacherNorms, l2_normalize, to_device
from pipeline.runtime.distributed import all_gather

NEGATIVES_STREAM = 1 << 21  # far from the epochs: the order of rows is drawn from (seed, epoch)


def nce(positive: Tensor, negatives: Tensor, threshold: Tensor) -> Tensor:
    """Return the mean over queries of -log h(positive) - sum log(1 - h(negative)), with h(z) = sigmoid(z - threshold).

    positive (B,) and negatives (B, K): logits; -inf leaves a negative out. threshold: scalar, log(K mean).
    """
    positive_loss, negative_losses = F.softplus(threshold - positive), F.softplus(negatives - threshold)
    return (positive_loss + negative_losses.sum(1)).mean()


class Projections(nn.Module):
    """Linear projections of student and teacher to one dim. Calling it projects the student; both are trained."""

    def __init__(self, student_dim: int, teacher_dim: int, dim: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_dim, dim)
        self.teacher = nn.Linear(teacher_dim, dim)

    def forward(self, feature: Tensor) -> Tensor:
        return self.student(feature)


class CRD(Objective):
    """CRD's loss, summed over student and teacher.

    split: the teacher's cache. rows: int64 (N,), the training rows. negatives: K per image, at most N - 1.
    tau, momentum (of the memories), dim: the authors' values. The teacher's raw embedding is its unit row times its
    norm: a new linear layer would drown unit rows in its bias.

    All images of a step, on all ranks, share one draw of negatives, which depends on (seed, step) only: separate draws
    would gather (B, K, 128), a gigabyte at B = 256. No row is a negative of itself.

    The state is the memories, (N, 128) float16 each, and log_mean (2,), of the student's side and the teacher's. Both
    memories take in the projections that the loss was computed from.
    """

    revision = 2  # 1 projected the teacher's unit rows
    student_memory: Tensor
    teacher_memory: Tensor
    log_mean: Tensor
    place_of_row: Tensor

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64],
        *,
        student_dim: int,
        negatives: int = 16_384,
        tau: float = 0.07,
        momentum: float = 0.5,
        dim: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.student_dim, self.teacher_dim, self.dim = student_dim, split.shape.dim, dim
        self.norms = TeacherNorms(split)
        self.projected: tuple[Tensor, Tensor] | None = None  # of the last batch
        self.rows = len(rows)
        self.negatives = min(negatives, self.rows - 1)
        self.tau, self.momentum, self.seed = tau, momentum, seed
        draws = torch.Generator().manual_seed(seed)
        for name in ("student_memory", "teacher_memory"):
            start = torch.randn(self.rows, dim, generator=draws)
            self.register_buffer(name, F.normalize(start, dim=1).half())
        self.register_buffer("log_mean", torch.zeros(2))
        places = torch.full((split.shape.rows,), -1)
        places[torch.from_numpy(rows)] = torch.arange(self.rows)
        self.register_buffer("place_of_row", places, persistent=False)

    def describe(self) -> str:
        return f"CRD, {self.negatives:,} negatives, tau {self.tau}"

    def head(self) -> nn.Module:
        head = Projections(self.student_dim, self.teacher_dim, self.dim)
        self.projections = (head,)  # in a tuple: its parameters belong to the network, not to the objective
        return head

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        queries = l2_normalize(embeddings[0]), self.projected_teacher(batch)
        self.projected = queries[0].detach(), queries[1].detach()
        places = self.places(batch.rows)
        drawn = self.draw(step)
        with torch.autocast(places.device.type, enabled=False):
            sides = [
                self.logits(query, memory, places, drawn)
                for query, memory in zip(queries, (self.teacher_memory, self.student_memory), strict=True)
            ]
            if step == 0:
                self.log_mean.copy_(torch.stack([log_mean_exp(*side) for side in sides]))
            thresholds = self.log_mean + math.log(self.negatives)
            return torch.stack([nce(*side, at) for side, at in zip(sides, thresholds, strict=True)]).sum()

    @torch.no_grad()
    def after_step(self, network: nn.Module, embeddings: Sequence[Tensor], batch: Batch, step: int) -> None:
        assert self.projected is not None, "forward comes first"
        places = all_gather(self.places(batch.rows))
        for memory, projections in zip(
            (self.student_memory, self.teacher_memory), self.projected, strict=True
        ):
            average = memory[places].float().lerp(all_gather(projections), 1 - self.momentum)
            memory[places] = l2_normalize(average).half()

    def projected_teacher(self, batch: Batch) -> Tensor:
        """Return the teacher's unit projections (B, 128), float32."""
        (head,) = self.projections
        return l2_normalize(head.teacher(self.norms.raw_embedding(batch)))

    def places(self, rows: Tensor) -> Tensor:
        """Return the places of rows (B,) in the memories."""
        return self.place_of_row[rows.to(self.place_of_row.device)]

    def draw(self, step: int) -> Tensor:
        """Return a step's K + 1 distinct places: one to spare for a query that is among them itself."""
        draws = np.random.default_rng((self.seed, step, NEGATIVES_STREAM))
        places = draws.choice(self.rows, self.negatives + 1, replace=False)
        return to_device(places, self.place_of_row.device)

    def logits(self, query: Tensor, memory: Tensor, places: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the positive (B,) and of the drawn rows (B, K + 1).

        One drawn row per query is -inf: its own, or the last if its own was not drawn.
        """
        left_out = places[:, None] == drawn
        left_out[:, -1] |= ~left_out.any(1)
        positive = (query * memory[places].float()).sum(1) / self.tau
        negatives = query @ memory[drawn].float().T / self.tau
        return positive, negatives.masked_fill(left_out, -torch.inf)


def log_mean_exp(positive: Tensor, negatives: Tensor) -> Tensor:
    """Return log(mean(exp(logit))) over the finite logits of all ranks, a scalar without gradient."""
    own = torch.cat([positive[:, None], negatives], 1).detach()
    sums = all_gather(own.logsumexp((0, 1))[None])
    return sums.logsumexp(0) - math.log(len(sums) * len(own) * negatives.shape[1])
