import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.loading.batch import Batch
from pipeline.objectives.simclr import SimCLR, nt_xent
from pipeline.runtime.distributed import all_gather
from tests.support.two_ranks import on_two_ranks


def naive_nt_xent(z1: NDArray[np.float64], z2: NDArray[np.float64], tau: float) -> float:
    z = [row / math.sqrt(sum(row * row)) for row in [*z1, *z2]]
    losses = []
    for i in range(len(z)):
        j = (i + len(z1)) % len(z)
        negatives_and_positive = sum(math.exp(z[i] @ z[k] / tau) for k in range(len(z)) if k != i)
        losses.append(-math.log(math.exp(z[i] @ z[j] / tau) / negatives_and_positive))
    return sum(losses) / len(losses)


def views(pairs: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    z = torch.randn(2, pairs, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z[0], z[1]


@pytest.mark.parametrize("tau", [0.07, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_equals_the_papers_equation_term_by_term(pairs: int, tau: float) -> None:
    z1, z2 = views(pairs, 5)
    # float64 sums of at most 14 terms with logits up to 14: rounding of about 1e-15
    assert nt_xent(z1, z2, tau).item() == pytest.approx(naive_nt_xent(z1.numpy(), z2.numpy(), tau), abs=1e-12)


def test_value_by_hand() -> None:
    # two orthogonal images with equal views, tau 1: the loss of each pair is log((e + 1 + 1) / e)
    z = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    assert nt_xent(z, z, 1.0).item() == pytest.approx(math.log((math.e + 2) / math.e), abs=1e-6)


def test_one_pair_has_no_negatives_and_no_loss() -> None:
    z1, z2 = views(1, 4)
    assert nt_xent(z1, z2, 0.1).item() == 0


def test_gradient_is_right() -> None:
    z1, z2 = (z.requires_grad_() for z in views(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (z1, z2))


def test_matching_views_have_a_smaller_loss_than_shuffled_ones() -> None:
    z, _ = views(16, 8)
    assert nt_xent(z, z, 0.1) < nt_xent(z, z.roll(1, 0), 0.1) - 5


def test_autocast_does_not_lower_the_precision() -> None:
    z1, z2 = (z.float() for z in views(8, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(z1, z2, 0.1)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, nt_xent(z1, z2, 0.1))


def test_the_objective_trains_its_head_to_distinguish_images() -> None:
    torch.manual_seed(0)
    objective = SimCLR(8, projection_dim=8, tau=0.2)
    head = objective.head()
    images = torch.randn(16, 8)
    losses = []
    for step in range(30):
        batch = batch_of([images + 0.05 * torch.randn(16, 8) for _ in range(objective.views)])
        loss = objective([head(view) for view in batch.images], batch, step)
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(head.parameters(), gradients, strict=True):
                parameter.sub_(0.5 * gradient)
        losses.append(loss.item())
    # a head that cannot distinguish 16 images stays at log(31) = 3.4; one that can gets far below 1
    assert losses[-1] < 1


def test_views_and_teacher() -> None:
    objective = SimCLR(8)
    assert (objective.views, objective.needs_teacher, dict(objective.state_dict())) == (2, False, {})
    assert objective.describe() == "SimCLR, tau 0.1"
    assert objective.head()(torch.randn(3, 8)).shape == (3, 128)


def batch_of(images: list[Tensor]) -> Batch:
    rows = torch.arange(len(images[0]))
    return Batch(images=tuple(images), rows=rows, labels=torch.full_like(rows, -1))


def loss_and_gradient_of_my_half(rank: int) -> dict[str, Tensor]:
    z1, z2 = (z[3 * rank : 3 * rank + 3].clone().requires_grad_() for z in views(6, 4))
    loss = SimCLR(4, tau=0.5)([z1, z2], batch_of([z1, z2]), 0)
    loss.backward()
    assert z1.grad is not None
    return {"loss": loss.detach(), "grad": z1.grad}


def test_two_ranks_see_the_loss_and_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    halves = on_two_ranks(loss_and_gradient_of_my_half, tmp_path)
    z1, z2 = (z.requires_grad_() for z in views(6, 4))
    whole = nt_xent(z1, z2, 0.5)
    whole.backward()
    assert [half["loss"].item() for half in halves] == [whole.item()] * 2
    # each rank has twice its part of the gradient; DDP's mean over two ranks halves it again
    torch.testing.assert_close(torch.cat([half["grad"] for half in halves]) / 2, z1.grad, rtol=0, atol=1e-12)


def test_gathering_alone_is_the_identity() -> None:
    z, _ = views(2, 3)
    assert all_gather(z) is z
