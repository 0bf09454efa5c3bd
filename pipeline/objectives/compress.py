"""CompRess: similarities to anchors, as the teacher has them (NeurIPS 2020, arXiv 2010.14713)."""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.anchored_teacher import AnchoredTeacher
from pipeline.objectives.objective import Objective
from pipeline.objectives.queues import KeyQueue
from pipeline.objectives.streamed import streamed_kl
from pipeline.runtime.distributed import gather_ranks


class Compress1q(Objective):
    """One queue: the similarities of both are to the teacher's anchors, the student's behind a linear head.

    split: the teacher's cache. window: which of its rows are anchors at a step, the same on every rank: it
    advances by the global batch. precision: of the products with the anchors, fp32 or bf16. There is no state to save.
    """

    def __init__(
        self,
        split: Split,
        window: AnchorWindow,
        *,
        student_dim: int,
        tau: float = 0.04,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.teacher_dim = split.shape.dim
        self.tau = tau
        self.teacher = AnchoredTeacher(split, window, tau=tau, precision=precision)

    def describe(self) -> str:
        return f"CompRess-1q, {self.teacher.ring.size:,} anchors, tau {self.tau}"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.teacher_dim)

    def share(self, first: Objective) -> None:
        assert isinstance(first, Compress1q), type(first)
        self.teacher = first.teacher

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return self.teacher.divergence(l2_normalize(embeddings[0]), batch, step, tau=self.tau)


class Compress2q(Objective):
    """Two queues: the student's similarities are to its own keys, the teacher's to those images' embeddings.

    split: the teacher's cache. anchors: size of the bank of keys, which starts empty and takes in each batch
    of all ranks after its step, so that the first loss is zero.
    momentum: of the average of the network that computes the keys, from the same crop; with 0 the queries
    themselves become keys and there is no second network.
    head_dim: width of a linear head, for a student to be compared in another width than its own.
    live: the batches' teacher is no cache's, so that a checkpoint has to hold what it said.
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
        live: bool = False,
    ) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.head_dim = head_dim
        self.momentum = momentum
        self.tau = tau
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
        query, teacher, bank = l2_normalize(embeddings[0]), teacher_of(batch), self.bank
        own = bank.slots_of(batch.rows)
        return streamed_kl(query, teacher, bank.keys, bank.teacher, tau=self.tau, own=own, filled=bank.filled)

    @torch.no_grad()
    def after_step(self, network: nn.Module, embeddings: Sequence[Tensor], batch: Batch, step: int) -> None:
        keys = embeddings[0]
        if self.key_encoder is not None:
            ema_update(self.key_encoder, network, self.momentum)
            keys = self.key_encoder(batch.images[0])
        self.bank.enqueue(
            *map(gather_ranks, (batch.rows.to(keys.device), l2_normalize(keys), teacher_of(batch)))
        )


def l2_normalize(embedding: Tensor) -> Tensor:
    """The rows of (B, D) at length 1, in float32."""
    return F.normalize(embedding.float(), dim=1)


def teacher_of(batch: Batch) -> Tensor:
    """The teacher's unit rows (B, Dt), float16 or float32."""
    assert batch.teacher is not None, "this objective needs the teacher's rows"
    return batch.teacher


def ema_update(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """Move the parameters of `average` to momentum * average + (1 - momentum) * network, in place."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)
