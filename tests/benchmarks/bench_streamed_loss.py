"""The streamed loss against its matrix products alone, and against the plain form."""

import ctypes
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.objectives.streamed import SimilarityLoss
from pipeline.runtime.distributed import use_all_cores
from tests.benchmarks.figure import Figure, interleaved, ratio

B, D, K, TAU = 256, 2048, 131_072, 0.04
FEWER = K // 8
BF16, FP32 = torch.bfloat16, torch.float32


def measure(folder: Path) -> Iterator[Figure]:
    """Time forward and backward pass with B 256, D 2048, K 131,072."""
    use_all_cores()
    query, teacher, anchors = unit_rows(B, 1), unit_rows(B, 2), unit_rows(K, 0)
    half, self_index = anchors.half(), torch.arange(B)
    reduced = (anchors - anchors[:4096].mean(0)).to(BF16)

    def streamed(bank: Tensor, dtype: torch.dtype) -> None:
        asked = query.clone().requires_grad_()
        loss = SimilarityLoss(tau=TAU, self_index=self_index, product_dtype=dtype)
        loss(asked, teacher, bank, bank).backward()

    def plain() -> None:
        """Clone the queue and keep the logits, as the authors' code does."""
        asked, bank = query.clone().requires_grad_(), anchors.clone()
        target = F.softmax(teacher @ bank.T / TAU, 1)
        F.kl_div(F.log_softmax(asked @ bank.T / TAU, 1), target, reduction="batchmean").backward()

    weights = torch.rand(B, K)
    fp32, bf16 = (
        Products(query, teacher, weights, bank, dtype) for bank, dtype in ((anchors, FP32), (reduced, BF16))
    )
    seconds = interleaved(
        {
            "fp32 products": fp32.multiply,
            "fp32 streamed": lambda: streamed(half, FP32),
            "plain": plain,
            "bf16 products": bf16.multiply,
            "bf16 streamed": lambda: streamed(reduced, BF16),
        },
        warm=3,  # the first rounds after drawing gigabytes are slower
    )
    extra = {}
    for rows in (FEWER, K):
        streamed(half[:rows], FP32)
        extra[rows] = peak_of(lambda rows=rows: streamed(half[:rows], FP32))
    yield from figures(seconds, extra)


def figures(seconds: dict[str, list[float]], extra: dict[int, int]) -> Iterator[Figure]:
    """Yield the four figures."""
    shape = f"B {B}, D {D}, K {K:,}, forward and backward"
    median = {name: statistics.median(values) for name, values in seconds.items()}
    product = 2 * B * D * K
    speed = {name: 3 * product / median[f"{name} products"] / 1e9 for name in ("fp32", "bf16")}
    for name, most in (("fp32", 1.35), ("bf16", 1.5)):
        done = 4 * product / median[f"{name} streamed"] / 1e9
        yield Figure(
            name=f"streamed-loss-{name}",
            what=f"streamed loss in {name}, {shape}",
            against=f"its three matrix products alone, in {name}",
            ratio=ratio(seconds, f"{name} streamed", f"{name} products"),
            unit="x the time",
            at_most=most,
            seconds=seconds,
            bound=(
                "one pass takes four products, not three: neither side's sum is known before the last anchor: 1.33; "
                f"with everything else they run at {done:.0f} GFLOP/s, products alone at {speed[name]:.0f}"
            ),
            details={"GFLOP/s": speed},
        )
    yield Figure(
        name="streamed-loss-memory",
        what=f"extra memory of the streamed loss in fp32, K {K:,}: {extra[K] / 2**20:.0f} MiB",
        against=f"the same with K {FEWER:,}: {extra[FEWER] / 2**20:.0f} MiB",
        ratio=extra[K] / extra[FEWER],
        unit="x the memory",
        at_most=1.1,
        bound=f"a block of anchors and its logits; the plain form holds {plain_bytes() / 2**20:.0f} MiB",
    )
    yield Figure(
        name="streamed-loss-bf16-plain",
        what=f"streamed loss in bf16, {shape}",
        against="the plain form in fp32, which clones the queue and keeps the logits",
        ratio=ratio(seconds, "plain", "bf16 streamed"),
        unit="x the speed",
        at_least=3.0,
        seconds=seconds,
        bound=(
            f"this processor multiplies bf16 {speed['bf16'] / speed['fp32']:.2f} x as fast as fp32: the three products "
            f"alone would be {ratio(seconds, 'plain', 'bf16 products'):.2f} x, the four that one pass needs "
            f"{0.75 * ratio(seconds, 'plain', 'bf16 products'):.2f} x"
        ),
    )


class Products:
    """The three products of both logits (B, K) and one gradient (B, D), into existing tensors."""

    def __init__(
        self, query: Tensor, teacher: Tensor, weights: Tensor, anchors: Tensor, dtype: torch.dtype
    ) -> None:
        self.query, self.teacher, self.weights = (each.to(dtype) for each in (query, teacher, weights))
        self.anchors = anchors
        self.logits, self.gradient = torch.empty_like(self.weights), torch.empty_like(self.query)

    def multiply(self) -> None:
        torch.mm(self.query, self.anchors.T, out=self.logits)
        torch.mm(self.teacher, self.anchors.T, out=self.logits)
        torch.mm(self.weights, self.anchors, out=self.gradient)


def unit_rows(rows: int, seed: int) -> Tensor:
    """Return non-negative unit rows (rows, D), like features after a ReLU."""
    drawn = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn.clamp_min_(0), dim=1)


def plain_bytes() -> int:
    """Return the bytes of the queue, logits, log-probabilities, targets and their gradient."""
    return 4 * (K * D + 5 * B * K)


def peak_of(call) -> int:  # type: ignore[no-untyped-def]
    """Return the bytes by which a call raises the peak resident memory; freed memory is given back first."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
