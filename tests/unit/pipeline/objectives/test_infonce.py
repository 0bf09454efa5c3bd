"""1q with InfoNCE: 1q's loss plus that of an oracle in double precision, on one rank and on two."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.reader import Split, open_store
from pipeline.loading.batch import Batch
from pipeline.objectives.infonce import infonce
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
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


def test_infonce_is_the_cross_entropy_of_the_image_itself() -> None:
    student, teacher = (draws / np.linalg.norm(draws, axis=1, keepdims=True) for draws in unit_free())
    logits = student @ teacher.T / 0.07
    expected = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(1)))
    found = infonce(torch.from_numpy(student).float(), torch.from_numpy(teacher).half())
    assert found.item() == pytest.approx(expected, rel=2e-3)  # the teacher is rounded to float16
    assert infonce(torch.eye(4), torch.eye(4)).item() < 1e-5


def unit_free() -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    return [draws.standard_normal((6, 5)) for _ in range(2)]


def test_the_loss_is_the_sum_of_both(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, embedding = eligible_batch(split, BATCH), embedded(split)
    assert batch.teacher is not None
    plain, both = (built(split, name)((embedding,), batch, 0).item() for name in ("1q", "1q-infonce"))
    added = infonce(torch.nn.functional.normalize(embedding), batch.teacher).item()
    assert both == pytest.approx(plain + added, rel=1e-5)


@pytest.mark.parametrize("policy", ["window", "kmeans"])
def test_its_gradient_is_its_slope_and_it_is_learnt(cached: Path, policy: str) -> None:
    split = open_store(cached).split("train")
    objective = built(split, "1q-infonce", anchor_policy=policy, anchors="8")
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
    loss = built(split, "1q-infonce")((leaf,), batch, 0)
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
