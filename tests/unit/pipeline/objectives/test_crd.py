import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cache.layout import SplitShape
from cache.reader import Split, open_store
from pipeline.loading.batch import Batch
from pipeline.objectives.crd import CRD, nce
from tests.support.one_step import one_step
from tests.support.tiny_store import written
from tests.support.two_ranks import on_two_ranks

ROWS, TEACHER_DIM, STUDENT_DIM, BATCH, TAU = 60, 8, 5, 6, 0.2


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=ROWS, views=1, dim=TEACHER_DIM))


def crd(split: Split, negatives: int = 16, **settings: float) -> CRD:
    """Return CRD on every second eligible row, so that places and rows differ."""
    rows = split.eligible()[::2]
    return CRD(split, rows, student_dim=STUDENT_DIM, negatives=negatives, tau=TAU, **settings)  # type: ignore[arg-type]


def batch_at(objective: CRD, split: Split, step: int, part: slice = slice(None)) -> Batch:
    trained = (objective.place_of_row >= 0).nonzero()[:, 0]
    rows = trained[(step * BATCH + torch.arange(BATCH)) % len(trained)][part]
    teacher = torch.from_numpy(split.gather(rows.numpy()))
    return Batch(images=(), rows=rows, labels=torch.full_like(rows, -1), teacher=teacher)


def features_of(batch: Batch) -> Tensor:
    """Return a student's features: five of the teacher's eight dimensions."""
    assert batch.teacher is not None
    return batch.teacher[:, :STUDENT_DIM].float()


def raw_teacher(split: Split, batch: Batch) -> Tensor:
    """Return the teacher's embeddings before they were normalized."""
    assert batch.teacher is not None
    return batch.teacher.float() * torch.from_numpy(split.norm[0][batch.rows.numpy()])[:, None]


def started(objective: CRD) -> nn.Module:
    torch.manual_seed(0)
    head = objective.head()
    objective.start(head)
    return head


def test_nce_by_hand() -> None:
    # h is sigmoid(0) = 1/2 for the positive, and sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4 for the negatives
    loss = nce(torch.tensor([1.0]), torch.tensor([[1.0, 1 + math.log(3), -torch.inf]]), torch.tensor(1.0))
    assert loss.item() == pytest.approx(math.log(2) + math.log(2) + math.log(4))


def test_nce_gradient() -> None:
    torch.manual_seed(0)
    positive, negatives = (
        torch.randn(4).double().requires_grad_(),
        torch.randn(4, 7).double().requires_grad_(),
    )
    threshold = torch.tensor(0.7).double()
    assert torch.autograd.gradcheck(nce, (positive, negatives, threshold))


def test_nce_of_a_far_positive_is_finite() -> None:
    """At tau 0.01 a logit is 100, whose exponential overflows float32."""
    positive = torch.tensor([-100.0, 100.0]).requires_grad_()
    loss = nce(positive, torch.tensor([[100.0], [-torch.inf]]), torch.tensor(0.0))
    loss.backward()
    assert loss.item() == pytest.approx(100)
    assert positive.grad is not None
    assert positive.grad.tolist() == pytest.approx([-0.5, 0])


def naive_loss(
    objective: CRD, head: nn.Module, features: Tensor, raw: Tensor, batch: Batch, step: int
) -> float:
    """Compute the equations of Tian et al. with exp, Z and N, one row at a time in float64. raw: the teacher's."""
    student = F.normalize(head.student(features).double(), dim=1)
    teacher = F.normalize(head.teacher(raw).double(), dim=1)
    drawn = objective.draw(step).tolist()
    count, total = objective.rows, 0.0
    for side, (queries, memory) in enumerate(
        ((student, objective.teacher_memory), (teacher, objective.student_memory))
    ):
        scale = math.exp(objective.log_mean[side]) * count  # Z
        for query, row in zip(queries, batch.rows.tolist(), strict=True):
            own = int(objective.place_of_row[row])
            others = [place for place in drawn if place != own][: objective.negatives]
            critics = []
            for place in (own, *others):
                p = math.exp(float(memory[place].double() @ query) / TAU) / scale
                critics.append(p / (p + len(others) / count))
            total -= math.log(critics[0]) + sum(math.log(1 - critic) for critic in critics[1:])
    return total / len(batch.rows)


@pytest.mark.parametrize("negatives", [1, 16, 10_000])
def test_the_loss_is_the_naive_one_at_every_step(split: Split, negatives: int) -> None:
    objective = crd(split, negatives)
    head = started(objective)
    for step in range(4):
        batch = batch_at(objective, split, step)
        features = features_of(batch)
        with torch.no_grad():
            loss = objective((head(features),), batch, step)
            # float32 logits of at most 1/tau = 5, in sums of about twenty
            naive = naive_loss(objective, head, features, raw_teacher(split, batch), batch, step)
            assert loss.item() == pytest.approx(naive, rel=1e-5)
            objective.after_step(head, (head(features),), batch, step)


def test_negatives_are_limited_to_the_other_rows(split: Split) -> None:
    objective = crd(split, 10_000)
    assert objective.negatives == objective.rows - 1
    assert sorted(objective.draw(3).tolist()) == list(range(objective.rows))


def test_every_query_has_k_negatives_and_never_itself(split: Split) -> None:
    objective = crd(split, 16)
    memory = objective.teacher_memory
    places, drawn = torch.arange(objective.rows), objective.draw(0)
    _, negatives = objective.logits(torch.randn(objective.rows, 128), memory, places, drawn)
    left_out = negatives == -torch.inf
    assert left_out.sum(1).tolist() == [1] * objective.rows
    assert left_out.any(0).sum() == 17  # drawn rows leave out themselves; the others, the last one
    for place in range(objective.rows):
        assert place not in drawn[~left_out[place]]


def test_negatives_are_drawn_evenly_by_seed_and_step_alone(split: Split) -> None:
    objective, same, other = crd(split), crd(split), crd(split, seed=1)
    draws = [objective.draw(step) for step in range(600)]
    assert all(len(set(draw.tolist())) == 17 for draw in draws)
    assert all(torch.equal(same.draw(step), draws[step]) for step in (599, 0, 7))
    assert not torch.equal(other.draw(0), draws[0])
    counts = torch.cat(draws).bincount()
    # each place is in 600 x 17 / 28 = 364 draws, with a std of 12
    expected = 600 * 17 / objective.rows
    assert counts.min() > expected - 60
    assert counts.max() < expected + 60


def test_the_mean_is_fixed_at_the_first_batch(split: Split) -> None:
    objective = crd(split)
    head = started(objective)
    batch = batch_at(objective, split, 0)
    embeddings = (head(features_of(batch)),)
    student = F.normalize(embeddings[0].detach().double(), dim=1)
    places, drawn = objective.places(batch.rows), objective.draw(0)
    memory = objective.teacher_memory.double()
    weights = []
    for query, own in zip(student, places.tolist(), strict=True):
        others = [place for place in drawn.tolist() if place != own][:16]
        weights += [math.exp(float(memory[place] @ query) / TAU) for place in (own, *others)]
    objective(embeddings, batch, 0)
    assert math.exp(objective.log_mean[0]) == pytest.approx(np.mean(weights), rel=1e-5)
    first = objective.log_mean.clone()
    objective.after_step(head, embeddings, batch, 0)
    objective(embeddings, batch, 1)
    assert torch.equal(objective.log_mean, first)


def test_memories_follow_their_rows_at_half_speed_and_no_others(split: Split) -> None:
    """Both sides are those of the loss, although the step has changed the projections since."""
    objective = crd(split)
    head = started(objective)
    batch = batch_at(objective, split, 2)
    embedding = head(features_of(batch)).detach()
    projected = head.teacher(raw_teacher(split, batch)).detach()
    before = objective.student_memory.clone(), objective.teacher_memory.clone()
    objective((embedding,), batch, 2)
    with torch.no_grad():
        head.teacher.weight.neg_()
        head.student.weight.neg_()
    objective.after_step(head, (embedding,), batch, 2)
    places = objective.places(batch.rows)
    others = torch.ones(objective.rows, dtype=torch.bool)
    others[places] = False
    after = objective.student_memory, objective.teacher_memory
    for old, new, seen in zip(before, after, (embedding, projected), strict=True):
        assert torch.equal(new[others], old[others])
        for place, own in zip(places.tolist(), seen, strict=True):
            expected = F.normalize((old[place].float() + F.normalize(own, dim=0)) / 2, dim=0)
            # float16's rounding of numbers below 1
            torch.testing.assert_close(new[place].float(), expected, atol=5e-4, rtol=0)


def test_gradients_reach_both_projections_of_the_network_and_nothing_else(split: Split) -> None:
    objective = crd(split)
    head = started(objective)
    batch = batch_at(objective, split, 0)
    features = features_of(batch).requires_grad_()
    objective((head(features),), batch, 0).backward()
    assert {name for name, p in head.named_parameters() if p.grad is not None and p.grad.any()} == {
        "student.weight",
        "student.bias",
        "teacher.weight",
        "teacher.bias",
    }
    assert features.grad is not None
    assert features.grad.any()
    assert list(objective.parameters()) == []
    assert set(objective.state_dict()) == {"student_memory", "teacher_memory", "log_mean"}


def test_the_gradient_is_that_of_finite_differences(split: Split) -> None:
    """Check one direction in float32: steps of 1e-2 leave three digits."""
    objective = crd(split)
    started(objective)
    batch = batch_at(objective, split, 0)
    torch.manual_seed(1)
    embedding, direction = torch.randn(2, BATCH, 128)
    objective((embedding,), batch, 0)  # fixes the mean
    embedding.requires_grad_()
    objective((embedding,), batch, 1).backward()
    assert embedding.grad is not None
    ahead, behind = (objective((embedding + sign * 1e-2 * direction,), batch, 1).item() for sign in (1, -1))
    assert (embedding.grad * direction).sum().item() == pytest.approx((ahead - behind) / 2e-2, rel=1e-2)


def train(
    objective: CRD, network: nn.Module, split: Split, steps: range, part: slice = slice(None)
) -> list[float]:
    optimizer = torch.optim.SGD(network.parameters(), 0.3)
    batches = [(step, batch_at(objective, split, step, part)) for step in steps]
    return [
        one_step(objective, network, optimizer, features_of(batch), batch, step) for step, batch in batches
    ]


def own_is_nearest(objective: CRD, head: nn.Module, split: Split) -> float:
    """Return the fraction of rows whose student projection is closest to their own teacher memory."""
    rows = torch.from_numpy(split.eligible()[::2])
    batch = Batch(images=(), rows=rows, labels=rows, teacher=torch.from_numpy(split.gather(rows.numpy())))
    with torch.no_grad():
        nearest = (head(features_of(batch)) @ objective.teacher_memory.float().T).argmax(1)
    return (nearest == objective.places(rows)).float().mean().item()


def test_the_student_learns_to_match_its_teacher(split: Split) -> None:
    objective = crd(split)
    head = started(objective)
    assert own_is_nearest(objective, head, split) < 0.2  # chance: 1 / 29
    losses = train(objective, head, split, range(150))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert own_is_nearest(objective, head, split) > 0.8  # it sees five of eight dimensions


def test_a_resumed_run_ends_bit_for_bit(split: Split, tmp_path: Path) -> None:
    whole, first, second = (crd(split) for _ in range(3))
    losses = train(whole, started(whole), split, range(8))
    head = started(first)
    halves = train(first, head, split, range(4))
    torch.save([head.state_dict(), first.state_dict()], tmp_path / "resume.pt")
    head = started(second)
    for module, state in zip((head, second), torch.load(tmp_path / "resume.pt"), strict=True):
        module.load_state_dict(state)
    halves += train(second, head, split, range(4, 8))
    assert halves == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_under_autocast_the_loss_is_nearly_the_same(split: Split) -> None:
    objective = crd(split)
    head, batch = started(objective), batch_at(objective, split, 0)
    plain = objective((head(features_of(batch)),), batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = objective((head(features_of(batch)),), batch, 0)
    assert lowered.dtype == torch.float32
    assert lowered.item() == pytest.approx(plain.item(), rel=0.02)  # bfloat16 projections


def test_a_live_teacher_brings_its_own_norms(split: Split) -> None:
    objective = crd(split)
    head, batch = started(objective), batch_at(objective, split, 0)
    norms = torch.arange(1, BATCH + 1)
    live = replace(batch, teacher_norm=norms)
    assert batch.teacher is not None
    expected = F.normalize(head.teacher(batch.teacher.float() * norms[:, None]), dim=1)
    torch.testing.assert_close(objective.projected_teacher(live), expected)


def test_description(split: Split) -> None:
    assert crd(split).describe() == "CRD, 16 negatives, tau 0.2"


def state_after_training(part: slice, split: Split, ranks: bool) -> dict[str, Tensor]:
    objective = crd(split)
    head = started(objective)
    train(objective, DistributedDataParallel(head) if ranks else head, split, range(5), part)
    return {**objective.state_dict(), **head.state_dict()}


def state_of_my_half(rank: int, store: Path) -> dict[str, Tensor]:
    return state_after_training(slice(3 * rank, 3 * rank + 3), open_store(store).split("train"), True)


def test_two_ranks_train_as_one_process_does(split: Split, tmp_path: Path) -> None:
    expected = state_after_training(slice(None), split, False)
    for state in on_two_ranks(state_of_my_half, tmp_path, split.path):
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            # float32 sums in two halves, over 5 steps, and float16's rounding of the memories
            torch.testing.assert_close(state[name].float(), value.float(), atol=1e-3, rtol=1e-3)
