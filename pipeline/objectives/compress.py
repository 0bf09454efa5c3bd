"""CompRess: the student learns the teacher's similarities to anchors (NeurIPS 2020, arXiv 2010.14713)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.anchored_teacher import AnchoredTeacher
from pipeline.objectives.centroids import Centroids
from pipeline.objectives.neighbour_anchors import NeighbourAnchors
from pipeline.objectives.objective import Objective, l2_normalize, teacher_embedding
from pipeline.objectives.queues import AnchorQueue, KeyQueue
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.runtime.distributed import all_gather


def reference_loss(
    student: Tensor,
    teacher: Tensor,
    student_anchors: Tensor,
    teacher_anchors: Tensor,
    tau: float,
    self_index: Tensor | None = None,
) -> Tensor:
    """Return CompRess's loss in plain PyTorch: the mean over queries i of KL(p_i(teacher) || p_i(student)), with

        p_ij(q) = exp(q_i . a_j / tau) / sum_k exp(q_i . a_k / tau)

    over the anchors a_j of the same side. All rows are unit vectors, so q_i . a_j is the cosine: student (B, Ds),
    teacher (B, Dt), student_anchors (K, Ds), teacher_anchors (K, Dt). self_index: int64 (B,), the slot of each query's
    own image among the anchors, left out on both sides; -1 if absent.

    It holds all logits in memory; the objectives compute the same with `SimilarityLoss`.
    """

    def log_p(query: Tensor, anchors: Tensor) -> Tensor:
        logits = query @ anchors.T / tau
        if self_index is not None:
            is_self = self_index[:, None] == torch.arange(len(anchors), device=query.device)
            logits = logits.masked_fill(is_self, torch.finfo(logits.dtype).min)
        return logits.log_softmax(dim=1)

    student_log_p, teacher_log_p = log_p(student, student_anchors), log_p(teacher, teacher_anchors)
    return F.kl_div(student_log_p, teacher_log_p, log_target=True, reduction="batchmean")


class Compress1q(Objective):
    """CompRess-1q: student and teacher are compared with the teacher's anchors, the student behind a linear head.

    anchors: which embeddings the anchors are at each step, the same on every rank: the paper's queue, or centroids.
    neighbours: further anchors of each image. product_dtype, tf32: of the products with the anchors, see
    `SimilarityLoss`. It saves no state but that of its anchors.
    """

    def __init__(
        self,
        anchors: AnchorQueue | Centroids,
        *,
        student_dim: int,
        tau: float = 0.04,
        neighbours: NeighbourAnchors | None = None,
        product_dtype: torch.dtype = torch.float32,
        tf32: bool = False,
    ) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = anchors.split.shape.dim
        self.tau = tau
        loss = SimilarityLoss(tau=tau, product_dtype=product_dtype, tf32=tf32)
        self.teacher = AnchoredTeacher(anchors, loss, neighbours=neighbours)

    def describe(self) -> str:
        anchors, neighbours = self.teacher.queue, self.teacher.neighbours
        kind = "centroids" if isinstance(anchors, Centroids) else "anchors"
        near = f" and {neighbours.graph.shape[1]} neighbours" if neighbours else ""
        return f"CompRess-1q, {anchors.total:,} {kind}{near}, tau {self.tau}"

    def made_of(self) -> dict[str, Any]:
        neighbours = self.teacher.neighbours
        return {"neighbours": neighbours.sha256} if neighbours else {}

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.teacher_dim)

    def share(self, first: Objective) -> None:
        assert isinstance(first, Compress1q), type(first)
        self.teacher = first.teacher

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return self.teacher.loss(all_gather(l2_normalize(embeddings[0])), batch, step)


class Compress2q(Objective):
    """CompRess-2q: the student is compared with keys of its own, the teacher with its embeddings of the same images.

    split: the teacher's cache. anchors: size of the queue, which starts empty and takes in each batch of all ranks
    after its step; the first loss is therefore zero. With several ranks, each holds a part of the queue.
    momentum: of the key encoder, a moving average of the network that embeds the same crop; with 0 there is no second
    network and the queries themselves become keys.
    head_dim: output width of a linear head; None: no head. tf32: see `SimilarityLoss`.
    live: the teacher's embeddings come from a live teacher, so a checkpoint has to hold those in the queue.
    """

    def __init__(
        self,
        split: Split,
        *,
        student_dim: int,
        anchors: int,
        head_dim: int | None = None,
        momentum: float = 0.999,
        tau: float = 0.04,
        tf32: bool = False,
        live: bool = False,
    ) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.head_dim = head_dim
        self.momentum = momentum
        self.tau = tau
        self.tf32 = tf32
        self.bank = KeyQueue(split, anchors, head_dim or student_dim, live=live)
        self.key_encoder: nn.Module | None = None

    def describe(self) -> str:
        return f"CompRess-2q, {self.bank.size:,} anchors, tau {self.tau}, momentum {self.momentum}"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.head_dim) if self.head_dim else nn.Identity()

    def start(self, network: nn.Module) -> None:
        if self.momentum:
            self.key_encoder = deepcopy(network).requires_grad_(False).train()

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        first = self.bank.held.start
        loss = SimilarityLoss(
            tau=self.tau,
            self_index=self.bank.slots_of(all_gather(batch.rows)) - first,
            filled=max(0, self.bank.filled - first),
            sharded=True,
            tf32=self.tf32,
        )
        query, teacher = all_gather(l2_normalize(embeddings[0])), all_gather(teacher_embedding(batch))
        return loss(query, teacher, self.bank.keys, self.bank.teacher)

    @torch.no_grad()
    def after_step(self, network: nn.Module, embeddings: Sequence[Tensor], batch: Batch, step: int) -> None:
        keys = embeddings[0]
        if self.key_encoder is not None:
            ema_update(self.key_encoder, network, self.momentum)
            keys = self.key_encoder(batch.images[0])
        rows, teacher = batch.rows.to(keys.device), teacher_embedding(batch)
        self.bank.enqueue(all_gather(rows), all_gather(l2_normalize(keys)), all_gather(teacher))


def ema_update(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """Update `average` in place: momentum * average + (1 - momentum) * network, parameter by parameter."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)
