"""The objectives of recipes/cifar10/objectives.py: without additions they are CompRess-1q, and all are learnt."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cache.reader import Split, open_store
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
from pipeline.settings.training import DistillConfig
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch, losses_of_descent

CANDIDATE = "recipes.cifar10.objectives:candidate"


def built(split: Split, objective: str, **changes: Any) -> Objective:
    places = {name: Path(name) for name in ("dataset", "cache", "run")}
    config = DistillConfig(
        **places, objective=objective, anchors="60", batch_size=16, amp_dtype="fp32", **changes
    )
    return build_objective(resolved(config), STUDENT_DIM, split, split.eligible())


def test_without_additions_it_is_the_papers_objective(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, student = eligible_batch(split, 16), torch.randn(16, split.shape.dim, requires_grad=True)
    losses, gradients = [], []
    for objective in ("1q", CANDIDATE):
        loss = built(split, objective)((student,), batch, 0)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def test_with_its_own_anchor_it_is_seed_at_equal_temperatures(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, student = eligible_batch(split, 16), torch.randn(16, split.shape.dim, requires_grad=True)
    gradients = []
    for settings in (
        {"objective": "seed", "tau": 0.04, "student_tau": 0.04},
        {"objective": CANDIDATE, "objective_args": ("own=true",)},
    ):
        loss = built(split, **settings)((student,), batch, 0)
        gradients.append(torch.autograd.grad(loss, student)[0])
    # the losses differ by the entropy of the teacher, which has no gradient
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "arguments"),
    [
        (CANDIDATE, ("layers=2",)),
        (CANDIDATE, ("layers=4", "regression=1", "infonce=1")),
        (CANDIDATE, ("taus=0.02/0.04/0.1", "center=true")),
        (CANDIDATE, ("taus=0.1", "standardize=true")),
        (CANDIDATE, ("own=true",)),
        ("recipes.cifar10.objectives:learned_projection", ()),
    ],
)
def test_each_is_learnt(cached: Path, objective: str, arguments: tuple[str, ...]) -> None:
    split = open_store(cached).split("train")
    batch = eligible_batch(split, 16)
    losses = losses_of_descent(built(split, objective, objective_args=arguments), [batch] * 40, lr=0.1)
    assert losses[-1] < 0.8 * losses[0]
