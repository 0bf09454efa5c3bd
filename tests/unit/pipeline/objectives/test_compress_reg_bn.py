"""1q with Reg-BN: 1q's loss and that of an oracle in double precision, on one rank and on two."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.reader import Split, open_store
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
from pipeline.objectives.regression import regression_bn
from pipeline.settings.training import DistillConfig
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch, gradient_of, losses_of_descent, slope
from tests.support.two_ranks import on_two_ranks

BATCH = 8


def built(split: Split, objective: str, **changes: object) -> Objective:
    places = {name: Path(name) for name in ("dataset", "cache", "run")}
    settings = {"anchors": "30", "batch_size": BATCH, "amp_dtype": "fp32"} | changes
    config = DistillConfig(**places, objective=objective, **settings)
    return build_objective(resolved(config), STUDENT_DIM, split, split.eligible())


def embedded(split: Split, count: int = BATCH) -> Tensor:
    return torch.randn(count, split.shape.dim, generator=torch.Generator().manual_seed(1))


def test_regression_is_twice_the_missing_correlation() -> None:
    draws = np.random.default_rng(0)
    student, teacher = 3 * draws.standard_normal((6, 5)) + 1, draws.standard_normal((6, 5))
    correlation = np.mean([np.corrcoef(student[:, each], teacher[:, each])[0, 1] for each in range(5)])
    found = regression_bn(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(
        2 - 2 * correlation, rel=1e-4
    )  # batch norm adds 1e-5 to each variance


def test_the_loss_is_the_sum_of_both(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, embedding = eligible_batch(split, BATCH), embedded(split)
    assert batch.teacher is not None
    plain, both = (built(split, name)((embedding,), batch, 0).item() for name in ("1q", "1q-reg-bn"))
    assert both == pytest.approx(plain + 5 * regression_bn(embedding, batch.teacher).item(), rel=1e-5)


def test_it_is_the_candidate_that_was_measured(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, embedding = eligible_batch(split, BATCH), embedded(split)
    candidate = built(split, "recipes.cifar10.objectives:candidate", objective_args=("regression_bn=5",))
    gradients = [gradient_of(each, embedding, batch) for each in (built(split, "1q-reg-bn"), candidate)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("policy", ["window", "kmeans"])
def test_its_gradient_is_its_slope_and_it_is_learnt(cached: Path, policy: str) -> None:
    split = open_store(cached).split("train")
    objective = built(split, "1q-reg-bn", anchor_policy=policy, anchors="8")
    batch, embedding = eligible_batch(split, BATCH), embedded(split)
    torch.testing.assert_close(
        gradient_of(objective, embedding, batch), slope(objective, embedding, batch), rtol=0.05, atol=5e-3
    )
    losses = losses_of_descent(objective, [batch] * 40, lr=0.1)
    assert losses[-1] < 0.8 * losses[0]


def on_my_half(rank: int, path: Path) -> tuple[Tensor, Tensor]:
    return of_half(slice(rank * BATCH // 2, (rank + 1) * BATCH // 2), path)


def of_half(part: slice, path: Path) -> tuple[Tensor, Tensor]:
    """Return the loss, and its gradient with respect to this part's embeddings as DDP would average it."""
    split = open_store(path).split("train")
    whole = eligible_batch(split, BATCH)
    assert whole.teacher is not None
    batch = Batch(
        images=(whole.images[0][part],),
        rows=whole.rows[part],
        labels=whole.labels[part],
        teacher=whole.teacher[part],
    )
    leaf = embedded(split)[part].requires_grad_()
    loss = built(split, "1q-reg-bn")((leaf,), batch, 0)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def test_two_ranks_compute_the_loss_of_the_whole_batch(cached: Path, tmp_path: Path) -> None:
    loss, gradient = of_half(slice(None), cached)
    found = on_two_ranks(on_my_half, tmp_path, cached)
    for other, _ in found:
        torch.testing.assert_close(other, loss)
    # each rank has the sum over both ranks of the same loss
    torch.testing.assert_close(torch.cat([part for _, part in found]) / 2, gradient, rtol=1e-4, atol=1e-6)
