import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cache.layout import SplitShape
from cache.reader import Split, open_store
from pipeline.loading.batch import Batch
from pipeline.objectives.regression import Regression, RegressionBN
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch, gradient_of, losses_of_descent, slope
from tests.support.tiny_store import written
from tests.support.two_ranks import on_two_ranks

TEACHER_DIM, BATCH = 6, 10


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=40, views=1, dim=TEACHER_DIM))


def regression() -> Regression:
    return Regression(student_dim=STUDENT_DIM, teacher_dim=TEACHER_DIM)


def regression_bn(split: Split) -> RegressionBN:
    return RegressionBN(split, student_dim=STUDENT_DIM)


def embedding(seed: int = 1) -> Tensor:
    return torch.randn(BATCH, TEACHER_DIM, generator=torch.Generator().manual_seed(seed))


def raw_teacher(split: Split, batch: Batch) -> np.ndarray:
    rows = batch.rows.numpy()
    return split.gather(rows).astype(np.float64) * split.norm[0][rows, None]


@pytest.mark.parametrize(("degrees", "expected"), [(0, 0), (60, 1), (90, 2), (180, 4)])
def test_reg_is_2_minus_2_cosines_by_hand(degrees: float, expected: float) -> None:
    angle = math.radians(degrees)
    teacher = torch.zeros(2, TEACHER_DIM)
    teacher[:, 0] = 1
    student = torch.zeros(2, TEACHER_DIM)
    student[:, 0], student[:, 1] = 3 * math.cos(angle), 3 * math.sin(angle)  # the loss normalizes it
    batch = Batch(images=(), rows=torch.arange(2), labels=torch.arange(2), teacher=teacher)
    assert regression()((student,), batch, 0).item() == pytest.approx(expected, abs=1e-6)


def test_reg_equals_a_loop_over_rows(split: Split) -> None:
    batch, student = eligible_batch(split, BATCH), embedding()
    total = 0.0
    for mine, row in zip(student.double().numpy(), batch.rows.numpy(), strict=True):
        teacher = split.gather(np.array([row]))[0].astype(np.float64)
        difference = mine / np.linalg.norm(mine) - teacher / np.linalg.norm(teacher)
        total += sum(value**2 for value in difference)
    # sums of about ten float32 terms near 1
    assert regression()((student,), batch, 0).item() == pytest.approx(total / BATCH, rel=1e-6)


def test_reg_bn_by_hand(split: Split) -> None:
    """With two rows, all values become -1 or 1, so only the signs count."""
    batch = eligible_batch(split, 2)
    signs = np.sign(np.diff(raw_teacher(split, batch), axis=0))[0]
    student = 50 * torch.stack([torch.zeros(TEACHER_DIM), torch.from_numpy(signs).float()])
    student[1, 0] *= -1
    # one of six dimensions differs, by 2 in both rows; BatchNorm adds 1e-5 to variances of about 0.5
    assert regression_bn(split)((student,), batch, 0).item() == pytest.approx(4 / TEACHER_DIM, rel=1e-3)


def test_reg_bn_equals_a_loop_over_dimensions(split: Split) -> None:
    batch, student = eligible_batch(split, BATCH), embedding()
    total = 0.0
    for mine, teacher in zip(student.double().numpy().T, raw_teacher(split, batch).T, strict=True):
        a, b = ((side - side.mean()) / math.sqrt(side.var() + 1e-5) for side in (mine, teacher))
        total += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / BATCH
    found = regression_bn(split)((student,), batch, 0).item()
    assert found == pytest.approx(total / TEACHER_DIM, rel=1e-5)


def test_reg_bn_reads_the_norms_of_the_cache(split: Split) -> None:
    """The teacher's raw features, shifted and scaled per dimension, have no loss; its unit rows do."""
    batch, objective = eligible_batch(split, BATCH), regression_bn(split)
    raw = torch.from_numpy(raw_teacher(split, batch)).float()
    assert batch.teacher is not None
    # BatchNorm adds 1e-5 to variances near 1: at most 1e-5 of each value
    assert objective((3 * raw + 7,), batch, 0).item() < 1e-8
    assert objective((batch.teacher.float(),), batch, 0).item() > 1e-3


def test_reg_bn_takes_the_norms_of_a_live_teacher(split: Split) -> None:
    batch, objective = eligible_batch(split, BATCH), regression_bn(split)
    assert batch.teacher is not None
    norm = torch.linspace(1, 5, BATCH)
    live = replace(batch, teacher_norm=norm)
    assert objective((batch.teacher.float() * norm[:, None],), live, 0).item() < 1e-8
    assert objective((batch.teacher.float() * norm[:, None],), batch, 0).item() > 1e-3


def test_gradients_agree_with_finite_differences(split: Split) -> None:
    batch, student = eligible_batch(split, BATCH), embedding()
    for objective in (regression(), regression_bn(split)):
        # central differences are off by the step squared, 1e-4; gradients are up to about 0.2
        torch.testing.assert_close(
            gradient_of(objective, student, batch), slope(objective, student, batch), atol=1e-4, rtol=1e-3
        )


def test_a_student_at_its_teacher_has_no_loss_and_no_gradient(split: Split) -> None:
    batch = eligible_batch(split, BATCH)
    assert batch.teacher is not None
    student = 3 * batch.teacher.float()
    assert regression()((student,), batch, 0).item() < 1e-12
    assert gradient_of(regression(), student, batch).abs().max() < 1e-6


def test_the_loss_of_half_precision_embeddings_is_float32(split: Split) -> None:
    batch, student = eligible_batch(split, BATCH), embedding().bfloat16()
    for objective in (regression(), regression_bn(split)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective((student,), batch, 0)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(objective((student.float(),), batch, 0).item(), rel=1e-6)


def test_losses_fall_and_nothing_is_saved(split: Split) -> None:
    for objective in (regression(), regression_bn(split)):
        losses = losses_of_descent(objective, (eligible_batch(split, BATCH, step) for step in range(60)), 0.1)
        assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
        assert not objective.state_dict()
        assert not list(objective.parameters())


def test_heads_project_to_the_teachers_dim(split: Split) -> None:
    for objective in (regression(), regression_bn(split)):
        head = objective.head()
        assert isinstance(head, nn.Linear)
        assert (head.in_features, head.out_features) == (STUDENT_DIM, TEACHER_DIM)


def loss_and_gradient_of_part(part: slice, split: Split) -> tuple[Tensor, Tensor]:
    whole = eligible_batch(split, BATCH)
    assert whole.teacher is not None
    batch = replace(whole, rows=whole.rows[part], teacher=whole.teacher[part])
    student = embedding()[part].requires_grad_()
    loss = regression_bn(split)((student,), batch, 0)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad


def my_half(rank: int, store: Path) -> tuple[Tensor, Tensor]:
    half = BATCH // 2
    return loss_and_gradient_of_part(slice(half * rank, half * rank + half), open_store(store).split("train"))


def test_reg_bn_two_ranks_share_the_statistics(split: Split, tmp_path: Path) -> None:
    loss, gradient = loss_and_gradient_of_part(slice(None), split)
    found = on_two_ranks(my_half, tmp_path, split.path)
    for rank_loss, _ in found:
        assert rank_loss.item() == loss.item()
    # DDP averages over two ranks, which halves each one's gradient
    torch.testing.assert_close(torch.cat([part for _, part in found]) / 2, gradient)
