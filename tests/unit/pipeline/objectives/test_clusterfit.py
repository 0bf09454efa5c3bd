from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cache.layout import ChunkKey, SplitShape
from cache.reader import Split, open_store
from cache.writer import ChunkRows, normalize, write_chunk
from pipeline import neighbours
from pipeline.loading.batch import Batch
from pipeline.neighbours import kmeans
from pipeline.objectives.clusterfit import ClusterFit
from tests.support.one_step import one_step
from tests.support.tiny_store import create, written
from tests.support.two_ranks import on_two_ranks

ROWS, DIM, STUDENT_DIM, GROUPS, BATCH = 64, 8, 5, 4, 8
SHAPE = SplitShape(rows=ROWS, views=1, dim=DIM)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """A cache of rows in four groups, one direction each: row r is in group r % 4."""
    path: Path = tmp_path_factory.mktemp("planted") / "cache.zarr"
    noise = np.random.default_rng(0).standard_normal((ROWS, DIM))
    features = 5 * np.eye(GROUPS, DIM)[np.arange(ROWS) % GROUPS] + 0.3 * noise
    embedding, norm, status = normalize(features.astype(np.float32))
    create(path, SHAPE)
    crop = np.tile(np.float32([0, 0, 1, 1, 0]), (ROWS, 1))
    chunk = ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
    write_chunk(path, "train", ChunkKey(0, 0), chunk)
    return open_store(path).split("train")


def cc(split: Split, clusters: int = GROUPS) -> ClusterFit:
    return ClusterFit(split, split.eligible(), student_dim=STUDENT_DIM, clusters=clusters)


def batch_at(step: int) -> Batch:
    rows = (step * BATCH + torch.arange(BATCH)) % ROWS
    return Batch(images=(), rows=rows, labels=torch.full_like(rows, -1))


def features_of(batch: Batch) -> Tensor:
    """Return a student's features: an axis per group, plus noise."""
    noise = torch.randn(ROWS, STUDENT_DIM, generator=torch.Generator().manual_seed(0))
    return 2 * torch.eye(GROUPS, STUDENT_DIM)[batch.rows % GROUPS] + 0.3 * noise[batch.rows]


def new_head(objective: ClusterFit) -> nn.Module:
    torch.manual_seed(0)
    return objective.head()


def train(objective: ClusterFit, head: nn.Module, steps: range) -> list[float]:
    optimizer = torch.optim.SGD(head.parameters(), 0.5)
    batches = [(step, batch_at(step)) for step in steps]
    return [one_step(objective, head, optimizer, features_of(batch), batch, step) for step, batch in batches]


def test_planted_groups_are_the_clusters_and_the_student_learns_them_all(planted: Split) -> None:
    objective = cc(planted)
    head = new_head(objective)
    losses = train(objective, head, range(60))
    cluster_of_group = objective.cluster_of_row[:GROUPS]
    assert sorted(cluster_of_group.tolist()) == list(range(GROUPS))
    assert torch.equal(objective.cluster_of_row, cluster_of_group.repeat(ROWS // GROUPS))
    everything = Batch(images=(), rows=torch.arange(ROWS), labels=torch.empty(0))
    assert torch.equal(head(features_of(everything)).argmax(1).int(), objective.cluster_of_row)
    assert losses[-1] < 0.1 * losses[0]


def test_the_loss_is_the_cross_entropy_of_the_rows_clusters(planted: Split) -> None:
    objective = cc(planted)
    objective.cluster()
    logits = torch.randn(BATCH, GROUPS, generator=torch.Generator().manual_seed(0))
    batch = batch_at(3)
    naive = 0.0
    for row, scores in zip(batch.rows, logits.double(), strict=True):
        weights = scores.exp()
        naive -= (weights[int(objective.cluster_of_row[row])] / weights.sum()).log().item() / BATCH
    # float32 against float64
    assert objective((logits,), batch, 1).item() == pytest.approx(naive, rel=1e-6)


def test_the_loss_by_hand_and_its_gradient(planted: Split) -> None:
    """With equal logits for four clusters, the loss is log 4 and its gradient (1/4 - target) / B."""
    objective = cc(planted)
    logits, batch = torch.zeros(BATCH, GROUPS, requires_grad=True), batch_at(0)
    loss = objective((logits,), batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(4))
    target = torch.eye(GROUPS)[objective.cluster_of_row[batch.rows].long()]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (0.25 - target) / BATCH)


def test_clusters_are_those_of_kmeans_over_the_rows_trained_on(tmp_path: Path) -> None:
    split = written(tmp_path / "cache.zarr", SHAPE)
    rows = split.eligible()[1::2]
    objective = ClusterFit(split, rows, student_dim=STUDENT_DIM, clusters=5, seed=3)
    objective.cluster()
    _, expected = kmeans(split.gather(rows).astype(np.float32), 5, 20, seed=3)
    assert objective.cluster_of_row[torch.from_numpy(rows)].tolist() == expected.tolist()
    others = np.setdiff1d(np.arange(ROWS), rows)
    assert (objective.cluster_of_row[torch.from_numpy(others)] == -1).all()


@pytest.mark.parametrize(("wanted", "found"), [(1, 1), (16, 16), (17, 16), (16_000, 16)])
def test_there_are_at_most_a_quarter_as_many_clusters_as_rows(
    planted: Split, wanted: int, found: int
) -> None:
    objective = cc(planted, wanted)
    assert objective.describe() == f"ClusterFit, {found} clusters"
    head = objective.head()
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (STUDENT_DIM, found)


def test_a_resumed_run_does_not_cluster_again_and_ends_bit_for_bit(
    planted: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first, second = (cc(planted) for _ in range(3))
    losses = train(whole, new_head(whole), range(8))
    head = new_head(first)
    halves = train(first, head, range(4))
    torch.save([head.state_dict(), first.state_dict()], tmp_path / "resume.pt")
    monkeypatch.delattr(neighbours, "kmeans")
    head = new_head(second)
    for module, state in zip((head, second), torch.load(tmp_path / "resume.pt"), strict=True):
        module.load_state_dict(state)
    assert halves + train(second, head, range(4, 8)) == losses


def test_the_state_is_the_clusters_and_no_teacher_is_needed(planted: Split) -> None:
    objective = cc(planted)
    assert set(objective.state_dict()) == {"cluster_of_row"}
    assert list(objective.parameters()) == []
    assert not objective.needs_teacher


def test_kmeans_is_announced(planted: Split, capsys: pytest.CaptureFixture[str]) -> None:
    cc(planted).cluster()
    assert "k-means: 64 embeddings (8-d), 4 clusters" in capsys.readouterr().out


def clusters_of(rank: int, store: Path) -> Tensor:
    """Each rank has another seed, which would give other clusters."""
    split = open_store(store).split("train")
    objective = ClusterFit(split, split.eligible(), student_dim=STUDENT_DIM, clusters=9, seed=rank)
    objective(embeddings=(torch.zeros(BATCH, 9),), batch=batch_at(rank), step=0)
    return objective.cluster_of_row


def test_every_rank_has_the_clusters_of_rank_0(planted: Split, tmp_path: Path) -> None:
    first, second = on_two_ranks(clusters_of, tmp_path, planted.path)
    assert torch.equal(first, second)
    assert first.tolist() == clusters_of(0, planted.path).tolist()
    assert first.tolist() != clusters_of(1, planted.path).tolist()
