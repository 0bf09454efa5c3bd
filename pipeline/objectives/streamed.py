"""The similarity loss of CompRess (NeurIPS 2020, arXiv 2010.14713), streamed over blocks of anchors.

`reference_loss` in compress.py is the same loss in plain PyTorch. Here student and teacher each make one pass over
the anchors, in memory that does not depend on their number. With logits l_j = cosine_j / tau, weights
w_j = exp(l_j - peak), Z = sum_j w_j, p_j = w_j / Z and the student's anchors a_j,

    m                 = sum_j p_j a_j
    KL(p(t) || p(s))  = -H(t) - m(t) . s / tau + log sum_j exp(l_j(s)),    H = -sum_j p_j log p_j
    its gradient in s = (m(s) - m(t)) / tau

so a pass keeps only Z and m, and the teacher's its entropy H. Where student and teacher share their anchors, the
teacher's pass does not depend on the student: one pass serves every student of a batch.

The gradient is a difference of two means. Where all anchors are nearly parallel the means nearly are, and rounding
counts for more: in float32 the gradient's relative error is 4e-7 for anchors at a mean cosine of 0, 3e-5 at 0.9 and
1e-4 at 0.99. Subtracting before averaging, sum_j (p_j(s) - p_j(t)) a_j, needs both Z beforehand: another pass over
the anchors.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives.running_softmax import RunningSums, Softmax, product
from pipeline.runtime.precision import tf32_products

# Anchors per block. On a CPU, blocks to be converted are smaller, so that 2048-d ones stay in its last-level cache.
CONVERTED_BLOCK, BLOCK = 2048, 8192


@dataclass(frozen=True, kw_only=True)
class TeacherSide:
    """The teacher's part of the loss for B queries.

    mean: (B, Ds), the student's anchors averaged under the teacher's distribution p. entropy: (B,), that of p.
    has_anchors: bool (B,); a query without anchors has no loss and no gradient.
    """

    mean: Tensor
    entropy: Tensor
    has_anchors: Tensor


@dataclass(frozen=True, kw_only=True)
class SimilarityLoss:
    """Mean over queries of KL(p(teacher) || p(student)), with p = softmax(cosine / tau) over the anchors.

    tau: the student's temperature, and the teacher's unless `teacher_tau` is given.
    self_index: int64 (B,), the slot of each query's own image among the anchors, -1 if absent; or (B, E), several
    slots. Both sides leave them out.
    counts: float (K,), how many images each anchor stands for; None: one.
    own_anchors: (B, M, D), more anchors for each query, which no other query sees. Student and teacher share one space.
    drawn_from: the number of images from which the anchors are a random draw, without a query's own ones; an own anchor
    then counts for one image, and another for its share of these. None: all count the same.
    filled: only the first `filled` slots are anchors; None: all.
    sharded: each rank holds some of the anchors, and all ranks have the same queries.
    block: anchors per block; None: what suits the device.
    product_dtype: dtype of the factors of matrix products. Sums are in at least float32, also under autocast.
    tf32: compute float32 products in TF32 where the device has it.

    Raises ValueError for products in float16.
    """

    tau: float
    teacher_tau: float | None = None
    self_index: Tensor | None = None
    counts: Tensor | None = None
    own_anchors: Tensor | None = None
    drawn_from: int | None = None
    filled: int | None = None
    sharded: bool = False
    block: int | None = None
    product_dtype: torch.dtype = torch.float32
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.product_dtype == torch.float16:
            raise ValueError("weights underflow in float16: use float32 or bfloat16 products")

    def __call__(
        self, query: Tensor, teacher_query: Tensor, anchors: Tensor, teacher_anchors: Tensor
    ) -> Tensor:
        """Return the loss, a scalar in the dtype of the sums. Only `query` receives a gradient.

        query (B, Ds), teacher_query (B, Dt), anchors (K, Ds), teacher_anchors (K, Dt): unit rows. Anchors may be
        float16; they are converted a block at a time. Both may be one and the same tensor.
        """
        return self.student_loss(query, anchors, self.teacher_side(teacher_query, teacher_anchors, anchors))

    @torch.no_grad()
    def teacher_side(self, query: Tensor, anchors: Tensor, student_anchors: Tensor) -> TeacherSide:
        """Return the teacher's part for queries (B, Dt), anchors (K, Dt) and the student's anchors (K, Ds)."""
        tau = self.tau if self.teacher_tau is None else self.teacher_tau
        with self._precision(query):
            p = self._softmax_over(query, anchors, tau, student_anchors)
            entropy = p.log_sum - p.mean_logit
        return TeacherSide(mean=p.mean, entropy=entropy, has_anchors=p.has_anchors)

    def student_loss(self, query: Tensor, anchors: Tensor, teacher: TeacherSide) -> Tensor:
        """Return the loss of queries (B, Ds) against anchors (K, Ds), given the teacher's part."""
        with torch.no_grad(), self._precision(query):
            p = self._softmax_over(query, anchors, self.tau, anchors)
            # KL = -H(teacher) - m(teacher) . s / tau + log sum exp(l)
            losses = -teacher.entropy - (teacher.mean * p.scaled_query).sum(1) + p.log_sum
            loss = losses.masked_fill(~teacher.has_anchors, 0).mean()
            gradient = ((p.mean - teacher.mean) / (self.tau * len(query))).to(query.dtype)
        return _LossWithGradient.apply(query, loss, gradient)

    @contextlib.contextmanager
    def _precision(self, query: Tensor) -> Iterator[None]:
        with torch.autocast(query.device.type, enabled=False), tf32_products(self.tf32 and query.is_cuda):
            yield

    def _softmax_over(self, query: Tensor, anchors: Tensor, tau: float, values: Tensor) -> Softmax:
        """Stream p = softmax(query . anchor / tau) over the anchors (K, D), averaging values (K, Dv) under it."""
        one_space = anchors is values
        anchors, values = anchors[: self.filled], values[: self.filled]
        left_out = self.self_index
        if left_out is None:
            left_out = torch.full((len(query),), -1, device=query.device)
        left_out = left_out.view(len(query), -1)
        counts = None if self.counts is None else self.counts[: self.filled]
        sums = RunningSums(query, values.shape[1], tau, self.product_dtype, sum_logits=not one_space)
        sums.count += len(anchors) - ((left_out >= 0) & (left_out < len(anchors))).sum(1)
        scaled_query = (query.to(sums.dtype) / tau).to(self.product_dtype)
        block = self._block_size(anchors)
        buffer = scaled_query.new_empty(len(query) * block)
        for start, a, v in _blocks(anchors, anchors if one_space else values, block, self.product_dtype):
            # l = cosine / tau
            out = buffer[: len(query) * len(a)].view(len(query), -1)
            logits = product(scaled_query, a.T, sums.dtype, out)
            # w = exp(l - peak), but 0 for what is left out; Z += sum w
            of_block = None if counts is None else counts[start : start + len(a)]
            w = sums.weigh(logits, left_out - start, of_block)
            # Z m += sum w a
            sums.add(w, v)
        if self.sharded:
            sums.sum_over_ranks()
        if self.own_anchors is not None:
            # the same for the anchors that this query alone has
            own = self.own_anchors.to(sums.dtype)
            share = None if self.drawn_from is None else (sums.count / self.drawn_from)[:, None]
            logits = torch.einsum("bd,bmd->bm", scaled_query.to(sums.dtype), own)
            w = sums.weigh(logits, counts=share)
            sums.values += torch.einsum("bm,bmd->bd", w, own)
            sums.count += own.shape[1]
        return sums.softmax(scaled_query)

    def _block_size(self, anchors: Tensor) -> int:
        converts_on_cpu = anchors.device.type == "cpu" and anchors.dtype != self.product_dtype
        return min(self.block or (CONVERTED_BLOCK if converts_on_cpu else BLOCK), max(1, len(anchors)))


class _LossWithGradient(torch.autograd.Function):
    """A loss () whose gradient in the query is already known."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _blocks(
    anchors: Tensor, values: Tensor, size: int, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the first slot, the anchors and the values of each block, in `dtype`. Values may be the anchors.

    What has to be converted goes through one buffer, which the next block overwrites.
    """
    spaces = [anchors] if values is anchors else [anchors, values]
    buffers = [
        None if space.dtype == dtype else space.new_empty(size, space.shape[1], dtype=dtype)
        for space in spaces
    ]
    for start in range(0, len(anchors), size):
        parts = [space[start : start + size] for space in spaces]
        parts = [
            part if buffer is None else buffer[: len(part)].copy_(part)
            for part, buffer in zip(parts, buffers, strict=True)
        ]
        yield start, parts[0], parts[-1]
