"""The similarity loss of CompRess (NeurIPS 2020, arXiv 2010.14713), streamed over blocks of anchors.

Each side takes one pass over the anchors, in memory that does not depend on their number. With logits
l = cosine / tau, weights w = exp(l - peak), Z = sum_j w_j, p_j = w_j / Z and the student's anchors a_j,

    KL(p(t) || p(s))  = sum_j p_j(t) log p_j(t) - m(t) . s / tau + log sum_j exp(l_j(s)),  m = sum_j p_j a_j
    its gradient in s = (m(s) - m(t)) / tau

so that of each side only Z and m are kept, and of the teacher's the sum of p log p. The teacher's side knows nothing
of the student where both have the same anchors: found once, it serves every student that sees the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Unit vectors bound a logit by 1/tau. Down to this temperature the weights, from exp(-50) to exp(50), and the
# sums of millions of them lie well inside float32 without a peak; below it the running maximum is subtracted.
SMALLEST_TAU_WITHOUT_PEAK = 0.02
# Anchors at a time. On a processor those that have to be converted are fewer, so that 2048-d stay in its last cache.
CONVERTED_BLOCK, BLOCK = 2048, 8192


@dataclass(frozen=True, kw_only=True)
class TeacherSide:
    """What the loss needs of the teacher: its mean (B, D) of the student's anchors, p_log_p (B,), its negative
    entropy, and has_anchors (B,) bool: a query without any has no loss and no gradient.
    """

    mean: Tensor
    p_log_p: Tensor
    has_anchors: Tensor


def streamed_kl(
    query: Tensor,
    teacher_query: Tensor,
    anchors: Tensor,
    teacher_anchors: Tensor,
    *,
    tau: float,
    teacher_tau: float | None = None,
    own: Tensor | None = None,
    positive: Tensor | None = None,
    filled: int | None = None,
    block: int = 0,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Mean over queries of KL(p(teacher) || p(student)), with p = softmax(cosine / tau) over the anchors.

    query (B, Ds), teacher_query (B, Dt), anchors (K, Ds), teacher_anchors (K, Dt): unit rows, of which only
    `query` receives a gradient. Anchors may be float16: they are converted a block at a time. Both may be one
    and the same tensor.
    tau: the student's temperature and, unless `teacher_tau` is given, the teacher's.
    own: int64 (B,), the slot of each query's own row among the anchors, left out on both sides; -1 if absent.
    positive: (B, D), one more anchor for each query that no other query sees, where D = Ds = Dt is one space.
    filled: only the first `filled` slots are anchors. A query without any anchor has no loss and no gradient.
    block: anchors at a time; 0: what suits the device.
    product_dtype: of the products, the query's by default; sums are in at least float32, also under autocast.

    Returns a scalar in the dtype of the sums. Raises ValueError for products in float16.
    """
    shared: dict[str, Any] = {"own": own, "positive": positive, "filled": filled, "block": block}
    shared["product_dtype"] = product_dtype or query.dtype
    teacher = teacher_side(
        teacher_query, teacher_anchors, anchors, tau=tau if teacher_tau is None else teacher_tau, **shared
    )
    return divergence(teacher, query, anchors, tau=tau, **shared)


@torch.no_grad()
def teacher_side(
    query: Tensor,
    anchors: Tensor,
    student_anchors: Tensor,
    *,
    tau: float,
    own: Tensor | None = None,
    positive: Tensor | None = None,
    filled: int | None = None,
    block: int = 0,
    product_dtype: torch.dtype = torch.float32,
) -> TeacherSide:
    """The teacher's part of `streamed_kl`, without gradient: query (B, Dt), anchors (K, Dt), student_anchors (K, Ds).

    The rest is as there. Queries in float16 are multiplied in `product_dtype`, which is not.
    """
    with torch.autocast(query.device.type, enabled=False):
        values = None if anchors.is_set_to(student_anchors) else student_anchors[:filled]
        side = _Side(query, student_anchors.shape[1], tau, product_dtype, is_teacher=values is not None)
        side.stream(anchors[:filled], values, own, positive, block)
        # in one space the mean logit is the logit of the mean
        mean_logit = (side.mean() * side.scaled).sum(1) if values is None else side.mean_logit()
        p_log_p = mean_logit - side.log_sum()
        return TeacherSide(mean=side.mean(), p_log_p=p_log_p, has_anchors=side.has_anchors)


def divergence(
    teacher: TeacherSide,
    query: Tensor,
    anchors: Tensor,
    *,
    tau: float,
    own: Tensor | None = None,
    positive: Tensor | None = None,
    filled: int | None = None,
    block: int = 0,
    product_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The student's part of `streamed_kl`, which it ends: query (B, Ds), anchors (K, Ds), the rest as there."""
    if product_dtype == torch.float16:
        raise ValueError("the weights of far anchors underflow in float16: use float32 or bfloat16 products")
    with torch.autocast(query.device.type, enabled=False):
        return _Divergence.apply(query, teacher, anchors[:filled], tau, own, positive, block, product_dtype)


class _Divergence(torch.autograd.Function):
    """The loss, with its gradient computed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        teacher: TeacherSide,
        anchors: Tensor,
        tau: float,
        own: Tensor | None,
        positive: Tensor | None,
        block: int,
        product_dtype: torch.dtype,
    ) -> Tensor:
        side = _Side(query, anchors.shape[1], tau, product_dtype)
        side.stream(anchors, None, own, positive, block)
        mean = side.mean()
        losses = teacher.p_log_p - (teacher.mean * side.scaled).sum(1) + side.log_sum()
        ctx.save_for_backward(((mean - teacher.mean) / (tau * len(query))).to(query.dtype))
        return losses.masked_fill(~teacher.has_anchors, 0).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (query_gradient,) = ctx.saved_tensors
        return gradient * query_gradient, *[None] * 7


class _Side:
    """What is accumulated over the anchors for one side's queries (B, D); dim: of the anchors that are averaged.

    is_teacher: whether the logits are averaged too.
    """

    def __init__(
        self, query: Tensor, dim: int, tau: float, product_dtype: torch.dtype, *, is_teacher: bool = False
    ) -> None:
        self.dtype = torch.promote_types(product_dtype, torch.float32)
        self.scaled = (query.to(self.dtype) / tau).to(product_dtype)
        longest = 1 if product_dtype == self.dtype else 2  # anchors of bf16 products may be less their mean
        self.needs_peak = tau < longest * SMALLEST_TAU_WITHOUT_PEAK
        lowest = torch.finfo(self.dtype).min if self.needs_peak else 0.0
        self.peak = query.new_full((len(query), 1), lowest, dtype=self.dtype)
        self.partition = query.new_zeros(len(query), dtype=self.dtype)
        self.anchors = query.new_zeros(len(query), dim, dtype=self.dtype)
        self.logits = torch.zeros_like(self.partition) if is_teacher else None

    def stream(
        self, anchors: Tensor, values: Tensor | None, own: Tensor | None, positive: Tensor | None, block: int
    ) -> None:
        """Take in anchors (K, D) and what is averaged in their place (K, dim), by default themselves."""
        if own is None:
            own = torch.full((len(self.scaled),), -1, device=self.scaled.device)
        spaces = [anchors] if values is None else [anchors, values]
        small = anchors.device.type == "cpu" and anchors.dtype != self.scaled.dtype
        block = min(block or (CONVERTED_BLOCK if small else BLOCK), len(anchors))
        room = self.scaled.new_empty(len(self.scaled) * block)
        blocks = zip(*(_converted(space, block, self.scaled.dtype) for space in spaces), strict=True)
        for index, parts in enumerate(blocks):
            logits = room[: len(self.scaled) * len(parts[0])].view(len(self.scaled), -1)
            torch.mm(self.scaled, parts[0].T, out=logits)
            self._add(logits, parts[-1], own - index * block)
        if positive is not None:
            self._add_positive(positive.to(self.dtype))
        self.has_anchors = len(anchors) > ((own >= 0) & (own < len(anchors))).long()
        self.has_anchors |= positive is not None

    def _add(self, logits: Tensor, anchors: Tensor, own: Tensor) -> None:
        """Take in a block: logits (B, n) to overwrite, anchors (n, dim), own (B,) from its first slot."""
        logits = logits.to(self.dtype)
        finite = None if self.logits is None else logits.clone()
        _leave_out(logits, own)
        weights = self._weigh(logits, finite)
        if anchors.dtype == self.dtype:
            self.anchors.addmm_(weights, anchors)
        else:
            self.anchors += weights.to(anchors.dtype) @ anchors

    def _add_positive(self, positive: Tensor) -> None:
        """Take in an anchor (B, D) of each query alone."""
        logits = (self.scaled * positive).sum(1, keepdim=True)
        self.anchors += self._weigh(logits, logits.clone()) * positive

    def _weigh(self, logits: Tensor, finite: Tensor | None) -> Tensor:
        """The weights of logits (B, n), summed into the partition and, times the finite logits, into their sum."""
        if self.needs_peak:
            self._raise_peak(logits.amax(1, keepdim=True))
            logits.sub_(self.peak)
        weights = logits.exp_()
        self.partition += weights.sum(1)
        if self.logits is not None and finite is not None:
            self.logits += finite.mul_(weights).sum(1)
        return weights

    def _raise_peak(self, peak: Tensor) -> None:
        peak = torch.maximum(self.peak, peak)
        shrink = torch.exp(self.peak - peak)  # (B, 1)
        self.partition *= shrink[:, 0]
        self.anchors *= shrink
        if self.logits is not None:
            self.logits *= shrink[:, 0]
        self.peak = peak

    def mean(self) -> Tensor:
        """The weighted mean (B, dim) of the anchors; zero for a query without any, as its other sums are finite."""
        return self.anchors / self._partition()[:, None]

    def mean_logit(self) -> Tensor:
        """The weighted mean (B,) of the logits."""
        assert self.logits is not None, "only a teacher's are kept"
        return self.logits / self._partition()

    def log_sum(self) -> Tensor:
        """log sum_j exp(l_j), (B,)."""
        return self.peak[:, 0] + self._partition().log()

    def _partition(self) -> Tensor:
        return self.partition.masked_fill(~self.has_anchors, 1)


def _converted(anchors: Tensor, block: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Blocks of `anchors` in `dtype`, through one buffer if they have to be converted."""
    parts = anchors.split(block) if block else ()
    if anchors.dtype == dtype:
        yield from parts
        return
    buffer = anchors.new_empty(block, anchors.shape[1], dtype=dtype)
    for part in parts:
        yield buffer[: len(part)].copy_(part)


def _leave_out(logits: Tensor, own: Tensor) -> None:
    """Set column own[i] of row i to -inf where there is such a column, without waiting for the device."""
    column = own.clamp(0, logits.shape[1] - 1)[:, None]
    elsewhere = logits.gather(1, column)
    logits.scatter_(1, column, elsewhere.masked_fill_(column == own[:, None], -torch.inf))
