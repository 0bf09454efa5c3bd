"""Two ranks that hold half of the anchors each have the losses of one process that holds all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cache.layout import SplitShape
from cache.reader import Split, open_store
from pipeline.embedding.neighbour_graph import cache_neighbours
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
from pipeline.settings.cache_commands import NeighboursConfig
from pipeline.settings.training import DistillConfig
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch
from tests.support.tiny_store import written
from tests.support.two_ranks import on_two_ranks

BATCH, ANCHORS, STEPS, TEACHER_DIM = 8, 31, 50, 6
LR = 0.02  # small, or the rounding of a sum over two ranks grows from step to step
PLACES = {name: Path(name) for name in ("dataset", "cache", "run")}

CASES: dict[str, dict[str, Any]] = {
    "1q": {"objective": "1q", "tau": 0.2},
    "neighbours": {"objective": "1q", "tau": 0.2, "anchor_policy": "neighbours"},
    "kmeans": {"objective": "1q", "tau": 0.2, "anchor_policy": "kmeans", "anchors": "13"},
    "seed": {"objective": "seed"},
    "2q": {"objective": "2q", "tau": 0.2, "momentum": 0.9},
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    split = written(path, SplitShape(rows=60, views=1, dim=TEACHER_DIM))
    cache_neighbours(NeighboursConfig(cache=path, k=5, device="cpu"))
    return split


def objective_of(split: Split, settings: dict[str, Any]) -> Objective:
    config = DistillConfig(**PLACES, batch_size=BATCH, **{"anchors": str(ANCHORS), **settings})
    return build_objective(resolved(config), STUDENT_DIM, split, split.eligible())


def part(batch: Batch, mine: slice) -> Batch:
    assert batch.teacher is not None
    return Batch(
        images=(batch.images[0][mine],),
        rows=batch.rows[mine],
        labels=batch.labels[mine],
        teacher=batch.teacher[mine],
    )


def losses(split: Split, settings: dict[str, Any], mine: slice, *, ranks: int) -> torch.Tensor:
    """Return the losses of all steps of training on a part of each batch; DDP averages gradients over ranks."""
    torch.manual_seed(0)
    objective = objective_of(split, settings)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, STUDENT_DIM), objective.head())
    objective.start(network)
    model = DistributedDataParallel(network) if ranks > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), LR)
    found = []
    for step in range(STEPS):
        batch = part(eligible_batch(split, BATCH, seed=step), mine)
        embeddings = (model(batch.images[0]),)
        loss = objective(embeddings, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(network, embeddings, batch, step)
        found.append(loss.detach())
    return torch.stack(found)


def losses_of_my_half(rank: int, path: Path) -> dict[str, Any]:
    split, half = open_store(path).split("train"), BATCH // 2
    mine = slice(rank * half, (rank + 1) * half)
    return {
        name: {"losses": losses(split, settings, mine, ranks=2), "held": held(objective_of(split, settings))}
        for name, settings in CASES.items()
    }


@pytest.fixture(scope="module")
def of_ranks(split: Split, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two ranks found, by case: a second process takes long to start, so there is one for all."""
    return on_two_ranks(losses_of_my_half, tmp_path_factory.mktemp("ranks"), split.path)


def held(objective: Objective) -> dict[str, int]:
    """Return the number of anchors in each buffer of a rank."""
    return {
        name: len(buffer)
        for name, buffer in objective.named_buffers()
        if name.endswith((".anchors", "held_keys", "held_teacher"))
    }


@pytest.mark.parametrize("case", CASES)
def test_the_losses_of_two_ranks_are_those_of_one(
    split: Split, of_ranks: list[dict[str, Any]], case: str
) -> None:
    settings = CASES[case]
    expected = losses(split, settings, slice(None), ranks=1)
    assert expected[-10:].mean() < expected[5:15].mean()  # the student learns, once the queue of 2q is full
    whole = held(objective_of(split, settings))
    assert whole or case == "kmeans"  # each rank holds all centroids, which are few
    for found in of_ranks:
        torch.testing.assert_close(found[case]["losses"], expected, atol=1e-5, rtol=0)
        assert all(found[case]["held"][name] <= whole[name] // 2 + 1 for name in whole)
