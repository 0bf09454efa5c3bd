"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699), in its NCE form.

Student and teacher are projected to 128-d. Each is contrasted with the other's memory, which holds one projection
a row: the row's own is the positive, those of K other rows are the negatives. With z = cosine / tau, N rows and
P = exp(z) / Z, the paper's critic is h = P / (P + K/N). Its authors fix Z at the first batch, as N times the mean
of exp(z) over that batch's positives and negatives: N cancels, and h = sigmoid(z - log(K mean)).
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
from pipeline.objectives.compress import l2_normalize, teacher_of
from pipeline.objectives.objective import Objective
from pipeline.runtime.distributed import gather_ranks

NEGATIVES_STREAM = 1 << 21  # far from the epochs, whose orders are drawn from (seed, epoch)


def nce(positive: Tensor, negatives: Tensor, threshold: Tensor) -> Tensor:
    """Mean over queries of - log h(positive) - sum over negatives of log(1 - h), with h = sigmoid(z - threshold).

    positive (B,) and negatives (B, K): logits, of which -inf is one left out. threshold: scalar, log(K mean).
    Returns a scalar.
    """
    own, others = F.softplus(threshold - positive), F.softplus(negatives - threshold)
    return (own + others.sum(1)).mean()


class Projections(nn.Module):
    """A linear layer for each side, to one width: the student's is what is called, the teacher's is trained with it."""

    def __init__(self, student_dim: int, teacher_dim: int, dim: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_dim, dim)
        self.teacher = nn.Linear(teacher_dim, dim)

    def forward(self, feature: Tensor) -> Tensor:
        return self.student(feature)


class CRD(Objective):
    """CRD's loss of both sides.

    split: the teacher's cache. rows: int64 (N,), those trained on. negatives: K an image, at most the other rows.
    One draw of rows a step, a pure function of (seed, step), serves the whole batch on every rank: an own draw for
    each image would gather (B, K, 128), a gigabyte at B = 256. No row is a negative of itself.
    tau, momentum of the memories, dim: the authors' values.

    Saved are the memories, (N, 128) float16 each, and log_mean (2,), of the student's side and of the teacher's.
    """

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
        self.projections = (head,)  # in a tuple: its parameters are the network's, not the objective's
        return head

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        queries = l2_normalize(embeddings[0]), self.projected_teacher(batch)
        places = self.places(batch.rows)
        drawn = self.drawn(step)
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
        places = gather_ranks(self.places(batch.rows))
        sides = l2_normalize(embeddings[0]), self.projected_teacher(batch)
        for memory, projections in zip((self.student_memory, self.teacher_memory), sides, strict=True):
            average = memory[places].float().lerp(gather_ranks(projections), 1 - self.momentum)
            memory[places] = l2_normalize(average).half()

    def projected_teacher(self, batch: Batch) -> Tensor:
        """The unit projections (B, 128) float32 of the teacher's rows."""
        (head,) = self.projections
        return l2_normalize(head.teacher(teacher_of(batch).float()))

    def places(self, rows: Tensor) -> Tensor:
        """Where rows (B,) stand in the memories."""
        return self.place_of_row[rows.to(self.place_of_row.device)]

    def drawn(self, step: int) -> Tensor:
        """Places (K + 1,) of a step, each distinct: the one more is for a query that finds itself among them."""
        draws = np.random.default_rng((self.seed, step, NEGATIVES_STREAM))
        places = draws.choice(self.rows, self.negatives + 1, replace=False)
        return torch.from_numpy(places).to(self.place_of_row.device)

    def logits(self, query: Tensor, memory: Tensor, places: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Of the own row (B,) and of K + 1 drawn ones (B, K + 1), of which one is -inf: the own, or else the last."""
        left_out = places[:, None] == drawn
        left_out[:, -1] |= ~left_out.any(1)
        positive = (query * memory[places].float()).sum(1) / self.tau
        negatives = query @ memory[drawn].float().T / self.tau
        return positive, negatives.masked_fill(left_out, -torch.inf)


def log_mean_exp(positive: Tensor, negatives: Tensor) -> Tensor:
    """The log of the mean of exp over all logits of all ranks, those at -inf left out: a scalar without gradient."""
    own = torch.cat([positive[:, None], negatives], 1).detach()
    sums = gather_ranks(own.logsumexp((0, 1))[None])
    return sums.logsumexp(0) - math.log(len(sums) * len(own) * negatives.shape[1])
