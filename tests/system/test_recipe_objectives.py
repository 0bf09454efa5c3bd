"""The objectives of recipes/cifar10/objectives.py: without additions they are CompRess-1q, and all are learnt."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.neighbours import read_neighbours
from cache.reader import Split, open_store
from pipeline.embedding.neighbour_graph import cache_neighbours
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
from pipeline.settings.cache_commands import NeighboursConfig
from pipeline.settings.training import DistillConfig
from recipes.cifar10.objectives import infonce
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


def test_a_matched_head_starts_with_the_moments_of_the_teacher(cached: Path) -> None:
    split = open_store(cached).split("train")
    head = built(split, CANDIDATE, objective_args=("matched=true",)).head()
    teacher = torch.from_numpy(split.gather(split.eligible())).double()
    student = head(torch.randn(64, STUDENT_DIM))
    torch.testing.assert_close(student.mean(0).double(), teacher.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(student.std(0, unbiased=False).double(), teacher.std(0), rtol=1e-2, atol=1e-4)


def test_regression_of_standardized_embeddings_is_reg_bn(cached: Path) -> None:
    split = open_store(cached).split("train")
    batch, student = eligible_batch(split, 16), torch.randn(16, split.shape.dim)
    plain, added = (
        built(split, CANDIDATE, objective_args=args)((student,), batch, 0).item()
        for args in ((), ("regression_bn=2",))
    )
    teacher = batch.teacher.double()
    pair = [(side - side.mean(0)) / side.std(0, unbiased=False) for side in (student.double(), teacher)]
    assert (added - plain) / 2 == pytest.approx((pair[0] - pair[1]).square().mean().item(), rel=0.02)


def test_infonce_is_the_cross_entropy_of_the_image_itself() -> None:
    draws = np.random.default_rng(0)
    student, teacher = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in draws.normal(size=(2, 6, 5))
    )
    logits = student @ teacher.T / 0.07
    expected = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(1)))
    assert infonce(torch.from_numpy(student), torch.from_numpy(teacher)).item() == pytest.approx(expected)


def test_a_bag_adds_the_loss_to_one_of_five_neighbours(cached: Path, tmp_path: Path) -> None:
    shutil.copytree(cached, tmp_path / "cache.zarr")
    cache_neighbours(NeighboursConfig(cache=tmp_path / "cache.zarr", k=7, device="cpu"))
    split = open_store(tmp_path / "cache.zarr").split("train")
    batch, student = eligible_batch(split, 16), torch.randn(16, split.shape.dim)
    plain, bagged = (built(split, CANDIDATE, objective_args=args) for args in ((), ("bags=true",)))
    graph = read_neighbours(split)[:, :5]
    possible = torch.zeros(16, 5)
    for place in range(5):
        near = torch.from_numpy(split.gather(graph[batch.rows.numpy(), place]))
        for image in range(16):
            one = [tensor[image : image + 1] for tensor in (batch.rows, batch.labels, near, student)]
            alone = Batch(images=(), rows=one[0], labels=one[1], teacher=one[2])
            possible[image, place] = plain((one[3],), alone, 0)
    added = (bagged((student,), batch, 0) - plain((student,), batch, 0)).item()
    assert possible.min(1).values.mean() <= added <= possible.max(1).values.mean()
    picks = {step: bagged.bags.of(batch.rows, step) for step in (0, 1)}
    assert not torch.equal(picks[0], picks[1])
    torch.testing.assert_close(bagged.bags.of(batch.rows, 0), picks[0], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("objective", "arguments"),
    [
        (CANDIDATE, ("layers=2",)),
        (CANDIDATE, ("layers=4", "regression=1", "infonce=1")),
        (CANDIDATE, ("taus=0.02/0.04/0.1", "center=true")),
        (CANDIDATE, ("taus=0.1", "standardize=true")),
        (CANDIDATE, ("own=true",)),
        (CANDIDATE, ("matched=true", "regression_bn=3")),
        ("recipes.cifar10.objectives:learned_projection", ()),
    ],
)
def test_each_is_learnt(cached: Path, objective: str, arguments: tuple[str, ...]) -> None:
    split = open_store(cached).split("train")
    batch = eligible_batch(split, 16)
    losses = losses_of_descent(built(split, objective, objective_args=arguments), [batch] * 40, lr=0.1)
    assert losses[-1] < 0.8 * losses[0]
