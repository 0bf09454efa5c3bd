"""The error of the gradient with bfloat16 products, over the KL, and what is left of it where logits are float32."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.objectives.streamed import SimilarityLoss
from pipeline.runtime.distributed import use_all_cores
from tests.benchmarks.figure import RESULTS, Figure

D, TAU = 2048, 0.04
PLOT = "bf16-gradient-error.png"
DISTANCES = (2.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
CURVES = AS_THEY_ARE, CENTERED, UNROUNDED = (
    "anchors as they are",
    "anchors less their mean",
    "and float32 logits",
)
SMALL_KL = 0.01


def measure(folder: Path) -> Iterator[Figure]:
    """Compare gradients with those in float64, at several KLs."""
    use_all_cores()
    found = gradient_errors()
    near = int(np.argmin(np.abs(np.log(np.array(found["KL"]) / SMALL_KL))))
    rounded, unrounded = found[CENTERED][near], found[UNROUNDED][near]
    yield Figure(
        name="bf16-gradient-error",
        what=f"error of the gradient with bf16 products and float32 logits, at a KL of {found['KL'][near]:.2g}",
        against="logits in bf16, as the CPU's products leave them",
        ratio=unrounded / rounded,
        unit="x the error",
        bound=f"{100 * unrounded:.2g} % against {100 * rounded:.2g} %: what is left is the rounding of the factors",
        details=found,
    )


def gradient_errors() -> dict[str, list[float]]:
    """Return the relative errors of the bf16 gradient at several KLs, and plot them into results/.

    Features are non-negative in 200 clusters, K is 4,096, and the student is its teacher plus noise. Anchors are used
    as they are, minus their mean as `--loss-dtype bf16` holds them, and so with products that are not rounded to
    bfloat16, which a GPU has; here they are computed in float32 from the same factors.
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, D, generator=generator, dtype=torch.float64)
    cluster = torch.randint(200, (64 + 4096,), generator=generator)
    drawn = centres[cluster] + torch.randn(64 + 4096, D, generator=generator, dtype=torch.float64)
    teacher, anchors = F.normalize(drawn.clamp_min_(0), dim=1).split([64, 4096])
    found: dict[str, list[float]] = {"KL": [], **{name: [] for name in CURVES}}
    noise = F.normalize(torch.randn(64, D, generator=generator, dtype=torch.float64), dim=1)
    for distance in DISTANCES:
        query = F.normalize(teacher + distance * noise, dim=1)
        loss, exact = gradient(query, teacher, anchors, torch.float64)
        found["KL"].append(loss)
        for name in CURVES:
            origin = 0 if name == AS_THEY_ARE else anchors.mean(0)
            single = (query.float(), teacher.float(), (anchors - origin).to(torch.bfloat16))
            with unrounded_products() if name == UNROUNDED else contextlib.nullcontext():
                _, rounded = gradient(*single, torch.bfloat16)
            found[name].append(((rounded - exact).norm() / exact.norm()).item())
    draw(found)
    return found


def gradient(
    query: Tensor, teacher: Tensor, anchors: Tensor, product_dtype: torch.dtype
) -> tuple[float, Tensor]:
    asked = query.clone().requires_grad_()
    loss = SimilarityLoss(tau=TAU, product_dtype=product_dtype)(asked, teacher, anchors, anchors)
    loss.backward()
    assert asked.grad is not None
    return loss.item(), asked.grad


@contextlib.contextmanager
def unrounded_products() -> Iterator[None]:
    """Compute products of bfloat16 factors in float32 within the context, as a GPU does."""

    def product(a: Tensor, b: Tensor, dtype: torch.dtype, buffer: Tensor | None = None) -> Tensor:
        return a.to(dtype) @ b.to(dtype)

    users = ("pipeline.objectives.streamed", "pipeline.objectives.running_softmax")
    with patch(f"{users[0]}.product", product), patch(f"{users[1]}.product", product):
        yield


def draw(found: dict[str, list[float]]) -> None:
    """Plot the errors over the KL on logarithmic axes."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for name in CURVES:
        axes.loglog(found["KL"], 100 * np.array(found[name]), marker="o", label=name)
    axes.set(xlabel="KL", ylabel="error of the gradient, %", title=f"bf16 products, tau {TAU}, D {D}")
    axes.grid(alpha=0.3)
    axes.legend()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / PLOT, dpi=120)
    plt.close(figure)
