from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.layout import SplitShape
from cache.reader import Split, open_store
from pipeline.loading.batch import Batch
from pipeline.objectives.compress import Compress1q, Compress2q, reference_loss
from pipeline.objectives.objective import Objective
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.shards import gather_slots
from pipeline.objectives.streamed import SimilarityLoss
from tests.support.tiny_store import written
from tests.support.two_ranks import on_two_ranks

ROWS, TEACHER_DIM, STUDENT_DIM, BATCH = 60, 8, 5, 6


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=ROWS, views=1, dim=TEACHER_DIM))


def batch_at(split: Split, step: int) -> Batch:
    """Return the next six of twenty rows, in turn. Each row has an image of its own."""
    rows = torch.from_numpy(split.eligible())[(step * BATCH + torch.arange(BATCH)) % 20]
    images = torch.randn(ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return Batch(
        images=(images[rows],),
        rows=rows,
        labels=torch.full_like(rows, -1),
        teacher=torch.from_numpy(split.gather(rows.numpy())),
    )


def teacher_of(batch: Batch) -> Tensor:
    assert batch.teacher is not None
    return batch.teacher.float()


def build_network(objective: Objective) -> nn.Sequential:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, STUDENT_DIM, 3, bias=False),
        nn.BatchNorm2d(STUDENT_DIM),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(backbone, objective.head())


def train(objective: Objective, network: nn.Module, split: Split, steps: range) -> list[float]:
    losses = []
    for step in steps:
        batch = batch_at(split, step)
        embeddings = (network(batch.images[0]),)
        loss = objective(embeddings, batch, step)
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.05 * parameter.grad)
        objective.after_step(network, embeddings, batch, step)
        losses.append(loss.item())
    return losses


def compress_1q(split: Split, anchors: int = 20, tau: float = 0.07) -> Compress1q:
    window = AnchorWindow(split.eligible(), anchors, BATCH, seed=0)
    return Compress1q(AnchorQueue(split, window), student_dim=STUDENT_DIM, tau=tau)


def test_1q_a_student_at_its_teacher_has_no_loss_and_no_gradient(split: Split) -> None:
    objective, batch = compress_1q(split), batch_at(split, 0)
    embedding = (3 * teacher_of(batch)).requires_grad_()  # the loss normalizes it
    loss = objective((embedding,), batch, 0)
    loss.backward()
    assert embedding.grad is not None
    # the teacher's float16 rows are unit vectors to 5e-4 only, the student's to float32 precision
    assert abs(loss.item()) < 1e-4
    assert embedding.grad.abs().max() < 1e-2


@pytest.mark.parametrize("step", [0, 1, 7])
def test_1q_is_the_reference_loss_over_the_windows_other_rows(split: Split, step: int) -> None:
    objective, batch = compress_1q(split), batch_at(split, step)
    embedding = torch.randn(BATCH, TEACHER_DIM, generator=torch.Generator().manual_seed(step))
    window = objective.teacher.queue.window.rows_at(step)
    is_self = torch.from_numpy(window) == batch.rows[:, None]
    self_index = torch.where(is_self.any(1), is_self.int().argmax(1), -1)
    assert (self_index >= 0).any()  # some queries have to be masked
    anchors = torch.from_numpy(split.gather(window)).double()
    query = F.normalize(embedding.double(), dim=1)
    expected = reference_loss(query, teacher_of(batch).double(), anchors, anchors, 0.07, self_index)
    loss = objective((embedding,), batch, step)
    # float32 sums of twenty terms of at most 10
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_1q_in_bf16_differs_from_fp32_by_rounding_only(split: Split) -> None:
    batch = batch_at(split, 1)
    drawn = torch.randn(BATCH, TEACHER_DIM, generator=torch.Generator().manual_seed(1))
    losses, gradients = [], []
    for product_dtype in (torch.float32, torch.bfloat16):
        window = AnchorWindow(split.eligible(), 20, BATCH, seed=0)
        objective = Compress1q(
            AnchorQueue(split, window, centered=product_dtype == torch.bfloat16),
            student_dim=STUDENT_DIM,
            tau=0.07,
            product_dtype=product_dtype,
        )
        embedding = drawn.clone().requires_grad_()
        loss = objective((embedding,), batch, 1)
        loss.backward()
        assert embedding.grad is not None
        losses.append(loss.item())
        gradients.append(embedding.grad)
    assert losses[0] != losses[1]
    # bfloat16 rounds logits of up to 14 to 8 bits
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()


def test_1q_loss_falls_and_nothing_is_saved(split: Split) -> None:
    objective = compress_1q(split)
    losses = train(objective, build_network(objective), split, range(40))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert dict(objective.state_dict()) == {}
    assert list(objective.parameters()) == []


def test_1q_resumes_at_any_step(split: Split) -> None:
    whole, first, second = (compress_1q(split) for _ in range(3))
    network = build_network(whole)
    losses = train(whole, network, split, range(8))
    network = build_network(first)
    halves = train(first, network, split, range(4)) + train(second, network, split, range(4, 8))
    assert halves == losses


def test_1q_head_projects_to_the_teachers_dim(split: Split) -> None:
    head = compress_1q(split).head()
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (STUDENT_DIM, TEACHER_DIM)


def compress_2q(
    split: Split, anchors: int = 15, momentum: float = 0.9, head_dim: int | None = None
) -> Compress2q:
    return Compress2q(
        split, student_dim=STUDENT_DIM, anchors=anchors, momentum=momentum, head_dim=head_dim, tau=0.07
    )


def test_2q_first_step_only_enqueues(split: Split) -> None:
    objective, batch = compress_2q(split, momentum=0), batch_at(split, 0)
    embedding = torch.randn(BATCH, STUDENT_DIM, requires_grad=True)
    loss = objective((embedding,), batch, 0)
    loss.backward()
    assert loss.item() == 0
    assert embedding.grad is not None
    assert not embedding.grad.any()
    assert objective.bank.filled == 0
    objective.after_step(nn.Identity(), (embedding,), batch, 0)
    assert objective.bank.rows[:BATCH].tolist() == batch.rows.tolist()
    torch.testing.assert_close(objective.bank.keys[:BATCH], F.normalize(embedding.detach(), dim=1))


def test_2q_is_the_reference_loss_over_the_queues_other_rows(split: Split) -> None:
    objective = compress_2q(split, momentum=0)
    torch.manual_seed(0)
    embeddings = [torch.randn(BATCH, STUDENT_DIM) for _ in range(8)]
    for step in range(7):
        objective.after_step(nn.Identity(), (embeddings[step],), batch_at(split, step), step)
    batch, bank = batch_at(split, 7), objective.bank
    self_index = bank.slots_of(batch.rows)
    assert (self_index >= 0).any()
    teacher_anchors = torch.from_numpy(split.gather(bank.rows.numpy()))
    query = F.normalize(embeddings[7], dim=1)
    streamed = SimilarityLoss(tau=0.07, self_index=self_index)
    expected = streamed(query, teacher_of(batch), bank.keys, teacher_anchors)
    loss = objective((embeddings[7],), batch, 7).item()
    assert loss == expected.item()
    sides = (query, teacher_of(batch), bank.keys, teacher_anchors)
    reference = reference_loss(*(rows.double() for rows in sides), tau=0.07, self_index=self_index)
    # float32 sums of fifteen terms of at most 10
    assert loss == pytest.approx(reference.item(), rel=1e-4)


def test_2q_a_student_that_is_a_rotated_teacher_has_no_loss(split: Split) -> None:
    rotation = torch.linalg.qr(
        torch.randn(TEACHER_DIM, TEACHER_DIM, generator=torch.Generator().manual_seed(0))
    )[0]
    objective = Compress2q(split, student_dim=TEACHER_DIM, anchors=15, momentum=0, tau=0.07)
    for step in range(4):
        batch = batch_at(split, step)
        embedding = (teacher_of(batch) @ rotation).requires_grad_()
        loss = objective((embedding,), batch, step)
        # as in 1q: the teacher's float16 rows are unit vectors to 5e-4 only
        assert abs(loss.item()) < 1e-4
        objective.after_step(nn.Identity(), (embedding,), batch, step)
    assert objective.bank.filled == 15


def test_2q_keys_come_from_the_average_of_the_network(split: Split) -> None:
    objective = compress_2q(split, momentum=0.75)
    network = build_network(objective)
    objective.start(network)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    for step in range(3):
        train(objective, network, split, range(step, step + 1))
        average = [0.75 * a + 0.25 * p.detach() for a, p in zip(average, network.parameters(), strict=True)]
    assert objective.key_encoder is not None
    for mine, expected in zip(objective.key_encoder.parameters(), average, strict=True):
        torch.testing.assert_close(mine, expected)
        assert not mine.requires_grad
    batch = batch_at(split, 2)
    keys = F.normalize(objective.key_encoder(batch.images[0]), dim=1)  # in training mode: batch statistics
    torch.testing.assert_close(objective.bank.keys[objective.bank.slots_of(batch.rows)], keys)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_2q_loss_falls(split: Split, momentum: float) -> None:
    objective = compress_2q(split, momentum=momentum, head_dim=7)
    network = build_network(objective)
    objective.start(network)
    losses = train(objective, network, split, range(40))
    assert objective.bank.keys.shape == (15, 7)
    assert sum(losses[-10:]) < 0.9 * sum(losses[1:11])


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_2q_resumes_bit_for_bit(split: Split, momentum: float, tmp_path: Path) -> None:
    whole, first, second = (compress_2q(split, momentum=momentum) for _ in range(3))
    network = build_network(whole)
    whole.start(network)
    losses = train(whole, network, split, range(8))
    network = build_network(first)
    first.start(network)
    halves = train(first, network, split, range(4))
    torch.save([network.state_dict(), first.state_dict()], tmp_path / "resume.pt")
    network = build_network(second)
    second.start(network)
    for module, state in zip((network, second), torch.load(tmp_path / "resume.pt"), strict=True):
        module.load_state_dict(state)
    halves += train(second, network, split, range(4, 8))
    assert halves == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_2q_saves_the_keys_their_rows_and_the_average_only(split: Split) -> None:
    objective = compress_2q(split)
    network = build_network(objective)
    objective.start(network)
    average = {f"key_encoder.{name}" for name in network.state_dict()}
    assert set(objective.state_dict()) == {"bank.rows", "bank.keys", "bank._extra_state"} | average


def test_descriptions(split: Split) -> None:
    assert compress_1q(split).describe() == "CompRess-1q, 20 anchors, tau 0.07"
    assert compress_2q(split).describe() == "CompRess-2q, 15 anchors, tau 0.07, momentum 0.9"


def bank_after_steps(part: slice, split: Split) -> dict[str, Tensor]:
    objective = compress_2q(split, momentum=0)
    for step in range(5):
        whole = batch_at(split, step)
        rows = whole.rows[part]
        batch = Batch(images=(), rows=rows, labels=rows, teacher=teacher_of(whole)[part].half())
        embedding = torch.randn(BATCH, STUDENT_DIM, generator=torch.Generator().manual_seed(step))[part]
        objective.after_step(nn.Identity(), (embedding,), batch, step)
    resumed = compress_2q(split, momentum=0)
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed.bank.keys, objective.bank.keys)
    assert torch.equal(resumed.bank.teacher, objective.bank.teacher)
    return {**objective.state_dict(), "teacher": gather_slots(objective.bank.teacher, objective.bank.size)}


def bank_of_my_half(rank: int, store: Path) -> dict[str, Tensor]:
    return bank_after_steps(slice(3 * rank, 3 * rank + 3), open_store(store).split("train"))


def test_2q_two_ranks_fill_the_bank_as_one_process_does(split: Split, tmp_path: Path) -> None:
    expected = bank_after_steps(slice(None), split)
    for bank in on_two_ranks(bank_of_my_half, tmp_path, split.path):
        assert bank.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(bank[name], value), name
