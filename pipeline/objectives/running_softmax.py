"""A softmax over anchors that are seen a block at a time, and the average of their values under it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.objectives.shards import maximum_over_ranks, sum_over_ranks

# Unit vectors bound a logit by 1/tau. Down to this temperature the weights, from exp(-50) to exp(50), and the
# sums of millions of them lie well inside float32 without a peak; below it the running maximum is subtracted.
SMALLEST_TAU_WITHOUT_PEAK = 0.02


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """The result of a pass over the anchors for B queries; finite also for a query without anchors.

    scaled_query: (B, D), query / tau. mean: (B, Dv), the values averaged under p. mean_logit: (B,), sum_j p_j l_j.
    log_sum: (B,), log sum_j exp(l_j). has_anchors: bool (B,).
    """

    scaled_query: Tensor
    mean: Tensor
    mean_logit: Tensor
    log_sum: Tensor
    has_anchors: Tensor


class RunningSums:
    """Sums over the anchors seen so far, for B queries.

    partition: (B,), Z, the sum of the weights. values: (B, Dv), the weighted sum of the values. logits: (B,), the
    weighted sum of the logits, if `sum_logits`. peak: (B, 1), subtracted from the logits before exp. count: int64 (B,),
    the number of anchors, which the caller adds up.
    """

    def __init__(
        self, query: Tensor, dim: int, tau: float, product_dtype: torch.dtype, *, sum_logits: bool
    ) -> None:
        self.dtype = torch.promote_types(product_dtype, torch.float32)
        # bfloat16 anchors may be centered, which makes them up to 2 long
        longest = 1 if product_dtype == self.dtype else 2
        self.needs_peak = tau < longest * SMALLEST_TAU_WITHOUT_PEAK
        lowest = torch.finfo(self.dtype).min if self.needs_peak else 0.0
        self.peak = query.new_full((len(query), 1), lowest, dtype=self.dtype)
        self.partition = query.new_zeros(len(query), dtype=self.dtype)
        self.values = query.new_zeros(len(query), dim, dtype=self.dtype)
        self.logits = torch.zeros_like(self.partition) if sum_logits else None
        self.count = query.new_zeros(len(query), dtype=torch.int64)

    def weigh(self, logits: Tensor, left_out: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """Overwrite logits (B, n) with their weights, and add them to the partition and the sum of logits.

        left_out: int64 (B, E), columns whose weight is 0; outside 0..n-1: none. counts: how many anchors each counts
        for, (n,) or (B, 1); None: one.
        """
        finite_logits = None if self.logits is None else logits.clone()
        if left_out is not None:
            mask_columns(logits, left_out)
        if self.needs_peak:
            self._raise_peak(logits.amax(1, keepdim=True))
            logits.sub_(self.peak)
        weights = logits.exp_()
        if counts is not None:
            weights *= counts
        self.partition += weights.sum(1)
        if self.logits is not None and finite_logits is not None:
            self.logits += finite_logits.mul_(weights).sum(1)
        return weights

    def _raise_peak(self, peak: Tensor) -> None:
        peak = torch.maximum(self.peak, peak)
        shrink = torch.exp(self.peak - peak)  # (B, 1)
        self.partition *= shrink[:, 0]
        self.values *= shrink
        if self.logits is not None:
            self.logits *= shrink[:, 0]
        self.peak = peak

    def add(self, weights: Tensor, values: Tensor) -> None:
        """Add values (n, Dv) times their weights (B, n)."""
        if values.dtype == self.dtype:
            self.values.addmm_(weights, values)
        else:
            self.values += product(weights.to(values.dtype), values, self.dtype)

    def sum_over_ranks(self) -> None:
        """Add the sums of all ranks, each over anchors of its own."""
        if self.needs_peak:
            peak = self.peak.clone()
            maximum_over_ranks(peak)
            self._raise_peak(peak)
        for total in (self.partition, self.values, self.logits, self.count):
            if total is not None:
                sum_over_ranks(total)

    def softmax(self, scaled_query: Tensor) -> Softmax:
        """Normalize the sums, once all anchors have been seen."""
        has_anchors = self.count > 0
        partition = self.partition.masked_fill(~has_anchors, 1)
        mean = self.values / partition[:, None]
        return Softmax(
            scaled_query=scaled_query,
            mean=mean,
            # in one space, the mean logit is the logit of the mean
            mean_logit=(mean * scaled_query).sum(1) if self.logits is None else self.logits / partition,
            log_sum=self.peak[:, 0] + partition.log(),
            has_anchors=has_anchors,
        )


def product(a: Tensor, b: Tensor, dtype: torch.dtype, buffer: Tensor | None = None) -> Tensor:
    """Return a @ b in `dtype`, rounded to the dtype of a and b first where only a GPU's products can avoid that.

    buffer: takes the product before it is converted, where it is.
    """
    if a.is_cuda and a.dtype != dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return torch.mm(a, b, out=buffer).to(dtype)


def mask_columns(logits: Tensor, columns: Tensor) -> None:
    """Set logits[i, columns[i, e]] to -inf where that column exists, without synchronizing with the device."""
    nearest = columns.clamp(0, logits.shape[1] - 1)
    lowered = torch.where(nearest == columns, -torch.inf, torch.inf).to(logits.dtype)
    logits.scatter_reduce_(1, nearest, lowered, "amin")
