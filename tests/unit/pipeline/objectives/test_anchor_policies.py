"""Anchors that only a cache allows: each image's neighbours, and centroids that count for their clusters."""

import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.anchors import AnchorWindow
from cache.errors import NotAStore
from cache.layout import ChunkKey
from cache.neighbours import read_neighbours
from cache.reader import Split, open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.embedding.neighbour_graph import cache_neighbours
from pipeline.errors import PipelineError, WrongUse
from pipeline.loading.batch import Batch
from pipeline.objectives.anchored_teacher import AnchoredTeacher
from pipeline.objectives.centroids import Centroids
from pipeline.objectives.compress import reference_loss
from pipeline.objectives.neighbour_anchors import NeighbourAnchors
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.registry import build_objective, resolved
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.settings.cache_commands import NeighboursConfig
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.support.tiny_store import TEACHER
from tests.support.training_runs import assert_same_run, distill_in_two, distill_until_crash, settings

ROWS, DIM, NEAR, TAU = 200, 16, 12, 0.1
PLACES = {name: Path(name) for name in ("dataset", "cache", "run")}


def stored(path: Path, features: np.ndarray) -> Split:
    """Write a cache of these features, (N, D) float32, and open its split."""
    rows, dim = features.shape
    create_store(path, TEACHER)
    identity: dict[str, Any] = {"split": "train", "rows": rows, "classes": [], "images": "1" * 64}
    labels, thumbs = np.full(rows, -1, np.int64), np.arange(rows, dtype=np.uint64)
    made: dict[str, Any] = {"dataset": identity, "rows": rows, "views": 1, "dim": dim}
    create_split(path, "train", **made, labels=labels, thumbs=thumbs)
    embedding, norm, status = normalize(features)
    crop = np.zeros((rows, 5), np.float32)
    chunk = ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
    write_chunk(path, "train", ChunkKey(0, 0), chunk)
    return open_store(path).split("train")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Rows in eight groups, so that a row has near ones; rows 3 and 4 are equal, and row 7 has no embedding."""
    draws = np.random.default_rng(0)
    features = draws.standard_normal((8, DIM))[np.arange(ROWS) % 8] + 0.7 * draws.standard_normal((ROWS, DIM))
    features[4], features[7] = features[3], 0
    split = stored(tmp_path_factory.mktemp("store") / "cache.zarr", features.astype(np.float32))
    cache_neighbours(NeighboursConfig(cache=split.path, k=NEAR, device="cpu"))
    return split


def batch_of(split: Split, rows: list[int]) -> Batch:
    teacher = torch.from_numpy(split.gather(rows))
    return Batch(images=(), rows=torch.tensor(rows), labels=torch.zeros(len(rows)), teacher=teacher)


def queries(count: int) -> Tensor:
    drawn = torch.randn(count, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return F.normalize(drawn, dim=1).requires_grad_()


def full_loss(split: Split, query: Tensor, rows: list[int]) -> Tensor:
    """The loss against all images but the query's own, in plain PyTorch."""
    eligible = split.eligible()
    anchors = torch.from_numpy(split.gather(eligible)).double()
    own = torch.tensor([int(np.flatnonzero(eligible == row)[0]) for row in rows])
    return reference_loss(query, torch.from_numpy(split.gather(rows)).double(), anchors, anchors, TAU, own)


def with_neighbours(split: Split, anchors: int, seed: int = 0, near: int = NEAR) -> AnchoredTeacher:
    rows = split.eligible()
    queue = AnchorQueue(split, AnchorWindow(rows, anchors, 8, seed))
    graph = np.ascontiguousarray(graph_of(split)[:, :near])
    neighbours = NeighbourAnchors(split, graph, len(rows))
    return AnchoredTeacher(queue, SimilarityLoss(tau=TAU, product_dtype=torch.float64), neighbours=neighbours)


@lru_cache
def graph_of(split: Split) -> np.ndarray:
    return read_neighbours(split)


def test_the_graph_has_the_nearest_others_of_each_image(split: Split) -> None:
    eligible = split.eligible()
    rows = split.gather(eligible).astype(np.float64)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -2)
    graph = graph_of(split)
    assert graph.shape == (ROWS, NEAR)
    assert (graph[7] == -1).all()
    for place, row in enumerate(eligible):
        assert row not in graph[row]
        found = np.searchsorted(eligible, graph[row])
        assert (eligible[found] == graph[row]).all()
        # rounding of float32 products may exchange two that are as near
        np.testing.assert_allclose(cosine[place, found], np.sort(cosine[place])[::-1][:NEAR], atol=1e-6)
    assert graph[3, 0] == 4
    assert graph[4, 0] == 3


def test_with_all_images_as_anchors_neighbours_change_nothing(split: Split) -> None:
    rows = [0, 3, 4, 50, 199]
    query = queries(len(rows))
    loss = with_neighbours(split, len(split.eligible())).loss(query, batch_of(split, rows), 0)
    (gradient,) = torch.autograd.grad(loss, query)
    expected = full_loss(split, query, rows)
    (expected_gradient,) = torch.autograd.grad(expected, query)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-12)


def test_the_estimate_of_the_sum_over_all_images_has_no_bias_and_a_smaller_variance(split: Split) -> None:
    """Z' of NeighbourAnchors, over many draws of its random anchors, against Z and against anchors alone."""
    rows, anchors, draws = [0, 3, 50, 120, 199], 40, 300
    batch, eligible = batch_of(split, rows), split.eligible()
    teacher = torch.from_numpy(split.gather(rows)).double()
    everything = torch.from_numpy(split.gather(eligible)).double()
    weights = torch.exp(teacher @ everything.T / TAU)
    own = torch.tensor([int(np.flatnonzero(eligible == row)[0]) for row in rows])
    exact = weights.scatter(1, own[:, None], 0).sum(1)

    def estimates(near: int) -> Tensor:
        found = []
        for seed in range(draws):
            teacher_anchors = with_neighbours(split, anchors, seed, near)
            shared = teacher_anchors.start_step(batch, 0)
            space = teacher_anchors.queue.anchors
            passed = shared.loss._softmax_over(teacher, space, TAU, space)
            assert shared.loss.self_index is not None
            drawn = anchors - (shared.loss.self_index >= 0).sum(1)
            drawn_from = len(eligible) - 1 - near
            found.append(passed.log_sum.exp() * drawn_from / drawn)
        return torch.stack(found) / exact

    with_near, few = estimates(NEAR), estimates(1)
    error = with_near.std(0) / draws**0.5
    assert ((with_near.mean(0) - 1).abs() < 4 * error).all()
    assert (with_near.var(0) < few.var(0) / 3).all()


def test_the_loss_comes_nearer_to_that_of_all_images(split: Split) -> None:
    rows = [row for row in range(0, ROWS, 9) if row != 7]
    batch = batch_of(split, rows)
    # a student that has learnt: it is near its teacher
    query = F.normalize(torch.from_numpy(split.gather(rows)).double() + 0.1 * queries(len(rows)), dim=1)
    exact = full_loss(split, query, rows).item()
    rows_of_split = split.eligible()

    def mean_error(near: int) -> float:
        found = []
        for seed in range(40):
            if near:
                loss = with_neighbours(split, 40, seed, near).loss(query, batch, 0)
            else:
                queue = AnchorQueue(split, AnchorWindow(rows_of_split, 40, 8, seed))
                paper = AnchoredTeacher(queue, SimilarityLoss(tau=TAU, product_dtype=torch.float64))
                loss = paper.loss(query, batch, 0)
            found.append(abs(loss.item() - exact))
        return float(np.mean(found))

    assert mean_error(NEAR) < mean_error(0) / 3


def test_centroids_of_equal_images_are_these_images(tmp_path: Path) -> None:
    """Five different embeddings, each several times: five centroids give the loss of all images."""
    kinds = F.normalize(torch.randn(5, DIM, generator=torch.Generator().manual_seed(1)), dim=1).numpy()
    split = stored(tmp_path / "cache.zarr", np.repeat(kinds, [4, 9, 2, 20, 15], axis=0))
    centroids = Centroids(split, split.eligible(), 5, seed=0)
    teacher = AnchoredTeacher(centroids, SimilarityLoss(tau=TAU, product_dtype=torch.float64))
    rows = [0, 5, 14, 49]
    query = queries(len(rows))
    loss = teacher.loss(query, batch_of(split, rows), 0)
    assert sorted(centroids.counts.tolist()) == [2, 4, 9, 15, 20]
    anchors = torch.from_numpy(split.gather(split.eligible())).double()
    expected = reference_loss(query, torch.from_numpy(split.gather(rows)).double(), anchors, anchors, TAU)
    # a mean of equal float16 rows rounds to float16 once more
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("policy", ["neighbours", "kmeans"])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    cache = tmp_path / "cache.zarr"
    shutil.copytree(cached, cache)
    cache_neighbours(NeighboursConfig(cache=cache, k=4, device="cpu"))
    config = settings(packed, cache, tmp_path / "whole", anchor_policy=policy, anchors="30")
    distill(config)
    in_two = replace(config, run=tmp_path / "two")
    distill_in_two(in_two, monkeypatch)
    assert_same_run(config.run, in_two.run)


def test_a_run_does_not_go_on_with_another_graph(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.zarr"
    shutil.copytree(cached, cache)
    cache_neighbours(NeighboursConfig(cache=cache, k=4, device="cpu"))
    config = settings(packed, cache, tmp_path / "run", anchor_policy="neighbours", anchors="30")
    distill_until_crash(config, monkeypatch)
    shutil.rmtree(cache / "train/neighbours")
    cache_neighbours(NeighboursConfig(cache=cache, k=5, device="cpu"))
    with pytest.raises(PipelineError, match=r"holds another run \(made_of\.neighbours: expected"):
        distill(config)


def test_centred_centroids_lose_less_in_bfloat16(tmp_path: Path) -> None:
    """As an AnchorQueue's, where all embeddings have much in common."""
    draws = torch.randn(400, DIM, generator=torch.Generator().manual_seed(2))
    split = stored(tmp_path / "cache.zarr", F.normalize(draws + 8, dim=1).numpy())
    batch, query = batch_of(split, [0, 50, 399]), queries(3)

    def gradient(dtype: torch.dtype, *, centered: bool) -> Tensor:
        centroids = Centroids(split, split.eligible(), 40, seed=0, centered=centered)
        loss = AnchoredTeacher(centroids, SimilarityLoss(tau=TAU, product_dtype=dtype)).loss(
            query.float(), batch, 0
        )
        return torch.autograd.grad(loss, query)[0]

    exact = gradient(torch.float32, centered=False)
    torch.testing.assert_close(gradient(torch.float32, centered=True), exact, rtol=1e-2, atol=1e-4)
    error = [(gradient(torch.bfloat16, centered=centered) - exact).norm() for centered in (True, False)]
    assert error[0] < error[1] / 2


def test_centroids_that_were_loaded_are_not_searched_again(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Centroids(split, split.eligible(), 20, seed=seed) for seed in (0, 1))
    first.move_to(0)
    second.load_state_dict(first.state_dict())
    monkeypatch.setattr("pipeline.neighbours.kmeans", None)
    second.move_to(0)
    assert torch.equal(second.anchors, first.anchors)
    assert torch.equal(second.counts, first.counts)


def test_fewer_anchors_are_the_default_beside_neighbours_and_for_centroids(split: Split) -> None:
    def count(policy: str) -> int:
        config = DistillConfig(**PLACES, anchor_policy=policy)
        return build_objective(resolved(config), DIM, split, split.eligible()).teacher.queue.total  # type: ignore[no-any-return]

    assert {policy: count(policy) for policy in ("window", "neighbours", "kmeans")} == {
        "window": ROWS - 1,
        "neighbours": ROWS - 1,
        "kmeans": (ROWS - 1) // 4,
    }


def test_what_does_not_fit_is_refused(split: Split, tmp_path: Path) -> None:
    def build(rows: np.ndarray | None = None, where: Split = split, **changes: Any) -> None:
        config = DistillConfig(**PLACES, **{"anchors": "40", "anchor_policy": "neighbours", **changes})
        build_objective(resolved(config), DIM, where, split.eligible() if rows is None else rows)

    with pytest.raises(WrongUse, match=f"--neighbours 13: the graph of .* has {NEAR}; make a wider one"):
        build(neighbours=13)
    with pytest.raises(WrongUse, match="--anchors 13 with 12 neighbours: expected more than 13"):
        build(anchors="13")
    with pytest.raises(WrongUse, match="--anchors 50 with --anchor-policy kmeans: expected at most 49"):
        build(anchor_policy="kmeans", anchors="50")
    with pytest.raises(WrongUse, match="needs all images of the cache"):
        build(rows=split.eligible()[:100])
    with pytest.raises(WrongUse, match="--neighbours belongs to --anchor-policy neighbours"):
        build(anchor_policy="window", neighbours=3)
    with pytest.raises(WrongUse, match="only 1q and 1q-reg-bn have it; leave it out"):
        build(objective="2q")
    other = stored(tmp_path / "other.zarr", np.eye(5, DIM, dtype=np.float32))
    with pytest.raises(NotAStore, match="has no graph of neighbours"):
        build(where=other)
    with pytest.raises(WrongUse, match="of 5 images each has at most 4 neighbours"):
        cache_neighbours(NeighboursConfig(cache=other.path, k=5, device="cpu"))
    cache_neighbours(NeighboursConfig(cache=other.path, k=4, device="cpu"))
    cache_neighbours(NeighboursConfig(cache=other.path, k=4, device="cpu"))
    with pytest.raises(WrongUse, match="has a graph of 4 neighbours; delete"):
        cache_neighbours(NeighboursConfig(cache=other.path, k=3, device="cpu"))
