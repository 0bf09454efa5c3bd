"""The similarity loss of CompRess (NeurIPS 2020, arXiv 2010.14713), streamed over blocks of anchors.

One pass over the anchors a_j gives the loss and its gradient in memory that does not depend on their number.
With logits l = cosine / tau, weights w = exp(l - peak), Z = sum_j w_j, for the teacher t and the student s,

    KL(p(t) || p(s))  = sum_j w_t (l_t - l_s) / Z_t - log sum_j exp(l_t) + log sum_j exp(l_s)
    its gradient in s = (sum_j w_s a_j / Z_s - sum_j w_t a_j / Z_t) / tau

so that only the partition sums Z, the cross term and the weighted sums of the student's anchors are kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Unit vectors bound a logit by 1/tau. Down to this temperature the weights, from exp(-50) to exp(50), and the
# sums of millions of them lie well inside float32 without a peak; below it the running maximum is subtracted.
SMALLEST_TAU_WITHOUT_PEAK = 0.02


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
    block: int = 4096,
    product_dtype: torch.dtype | None = None,
) -> Tensor:
    """Mean over queries of KL(p(teacher) || p(student)), with p = softmax(cosine / tau) over the anchors.

    query (B, Ds), teacher_query (B, Dt), anchors (K, Ds), teacher_anchors (K, Dt): unit rows, of which only
    `query` receives a gradient. Anchors may be float16: they are converted a block at a time. Both may be one
    and the same tensor, which is then multiplied with both queries at once.
    tau: the student's temperature and, unless `teacher_tau` is given, the teacher's.
    own: int64 (B,), the slot of each query's own row among the anchors, left out on both sides; -1 if absent.
    positive: (B, D), one more anchor for each query that no other query sees, where D = Ds = Dt is one space.
    filled: only the first `filled` slots are anchors. A query without any anchor has no loss and no gradient.
    product_dtype: of the products, the query's by default; sums are in at least float32, also under autocast.

    Returns a scalar in the dtype of the sums. Raises ValueError for products in float16.
    """
    product_dtype = product_dtype or query.dtype
    if product_dtype == torch.float16:
        raise ValueError("the weights of far anchors underflow in float16: use float32 or bfloat16 products")
    scored = slice(len(anchors) if filled is None else filled)
    if own is None:
        own = torch.full((len(query),), -1, device=query.device)
    taus = (tau if teacher_tau is None else teacher_tau, tau)
    with torch.autocast(query.device.type, enabled=False):
        return _StreamedKL.apply(
            query,
            teacher_query,
            anchors[scored],
            teacher_anchors[scored],
            taus,
            own,
            positive,
            block,
            product_dtype,
        )


class _StreamedKL(torch.autograd.Function):
    """The loss, with its gradient computed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        teacher_query: Tensor,
        anchors: Tensor,
        teacher_anchors: Tensor,
        taus: tuple[float, float],
        own: Tensor,
        positive: Tensor | None,
        block: int,
        product_dtype: torch.dtype,
    ) -> Tensor:
        sums = _Sums(query, taus, torch.promote_types(product_dtype, torch.float32))
        teacher_scaled, scaled = (
            (unit.to(sums.dtype) / tau).to(product_dtype)
            for unit, tau in zip((teacher_query, query), taus, strict=True)
        )
        for start, logits, part in _blocks(teacher_scaled, scaled, anchors, teacher_anchors, block):
            sums.add(logits, part, own - start)
        if positive is not None:
            sums.add_positive(teacher_scaled, scaled, positive)
        has_anchors = len(anchors) > ((own >= 0) & (own < len(anchors))).long()
        has_anchors |= positive is not None
        loss, gradient = sums.loss_and_gradient(has_anchors)
        ctx.save_for_backward(gradient.to(query.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (query_gradient,) = ctx.saved_tensors
        return gradient * query_gradient, *[None] * 8


def _blocks(
    teacher_query: Tensor, query: Tensor, anchors: Tensor, teacher_anchors: Tensor, block: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The first slot, logits (2B, n), the teacher's above the student's, and student's anchors of each block.

    The tensors are buffers: the next block overwrites them.
    """
    if anchors.is_set_to(teacher_anchors):
        queries, spaces = [torch.cat([teacher_query, query])], [anchors]
    else:
        queries, spaces = [teacher_query, query], [teacher_anchors, anchors]
    block = min(block, len(anchors))
    room = query.new_empty(2 * len(query) * block)
    blocks = zip(*(_converted(space, block, query.dtype) for space in spaces), strict=True)
    for index, parts in enumerate(blocks):
        logits = room[: 2 * len(query) * len(parts[0])].view(2 * len(query), -1)
        for left, part, out in zip(queries, parts, logits.split(len(queries[0])), strict=True):
            torch.mm(left, part.T, out=out)
        yield index * block, logits, parts[-1]


def _converted(anchors: Tensor, block: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Blocks of `anchors` in `dtype`, through one buffer if they have to be converted."""
    parts = anchors.split(block) if block else ()
    if anchors.dtype == dtype:
        yield from parts
        return
    buffer = anchors.new_empty(block, anchors.shape[1], dtype=dtype)
    for part in parts:
        yield buffer[: len(part)].copy_(part)


class _Sums:
    """What is accumulated: rows 0..B-1 are weighted by the teacher, rows B..2B-1 by the student."""

    def __init__(self, query: Tensor, taus: tuple[float, float], dtype: torch.dtype) -> None:
        queries, dim = query.shape
        self.dtype = dtype
        self.tau = taus[1]
        self.needs_peak = min(taus) < SMALLEST_TAU_WITHOUT_PEAK
        lowest = torch.finfo(dtype).min if self.needs_peak else 0.0
        self.peak = query.new_full((2 * queries, 1), lowest, dtype=dtype)
        self.partition = query.new_zeros(2 * queries, dtype=dtype)
        self.cross = query.new_zeros(queries, dtype=dtype)
        self.anchors = query.new_zeros(2 * queries, dim, dtype=dtype)

    def add(self, logits: Tensor, anchors: Tensor, own: Tensor) -> None:
        """Take in a block: logits (2B, n) to overwrite, anchors (n, D), own (B,) from its first slot."""
        logits = logits.to(self.dtype)
        difference = torch.sub(*logits.chunk(2))
        _leave_out(logits, own.repeat(2))
        weights = self._weigh(logits, difference)
        if anchors.dtype == self.dtype:
            self.anchors.addmm_(weights, anchors)
        else:
            self.anchors += weights.to(anchors.dtype) @ anchors

    def add_positive(self, teacher_query: Tensor, query: Tensor, positive: Tensor) -> None:
        """Take in an anchor (B, D) of each query alone; the queries are scaled by 1/tau."""
        positive = positive.to(self.dtype)
        logits = torch.cat(
            [(side.to(self.dtype) * positive).sum(1, keepdim=True) for side in (teacher_query, query)]
        )
        difference = torch.sub(*logits.chunk(2))
        self.anchors += self._weigh(logits, difference) * positive.repeat(2, 1)

    def _weigh(self, logits: Tensor, difference: Tensor) -> Tensor:
        """The weights of logits (2B, n): summed into the partitions and, times difference (B, n), the cross term."""
        if self.needs_peak:
            self._raise_peak(logits.amax(1, keepdim=True))
            logits.sub_(self.peak)
        weights = logits.exp_()
        self.partition += weights.sum(1)
        self.cross += difference.mul_(weights[: len(difference)]).sum(1)
        return weights

    def _raise_peak(self, peak: Tensor) -> None:
        peak = torch.maximum(self.peak, peak)
        shrink = torch.exp(self.peak - peak)  # (2B, 1)
        self.partition *= shrink[:, 0]
        self.cross *= shrink[: len(self.cross), 0]
        self.anchors *= shrink
        self.peak = peak

    def loss_and_gradient(self, has_anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss and its gradient (B, D); a query without anchors counts as a loss of zero."""
        partition = self.partition.masked_fill(~has_anchors.repeat(2), 1)
        teacher_log_sum, log_sum = (self.peak[:, 0] + partition.log()).chunk(2)
        divergence = self.cross / partition[: len(self.cross)] - teacher_log_sum + log_sum
        teacher_mean, mean = (self.anchors / partition[:, None]).chunk(2)
        loss = divergence.masked_fill(~has_anchors, 0).mean()
        return loss, (mean - teacher_mean) / (self.tau * len(self.cross))


def _leave_out(logits: Tensor, own: Tensor) -> None:
    """Set column own[i] of row i to -inf where there is such a column, without waiting for the device."""
    column = own.clamp(0, logits.shape[1] - 1)[:, None]
    elsewhere = logits.gather(1, column)
    logits.scatter_(1, column, elsewhere.masked_fill_(column == own[:, None], -torch.inf))
