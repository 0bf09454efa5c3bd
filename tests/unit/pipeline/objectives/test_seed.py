import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.layout import SplitShape
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.seed import Seed
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch, gradient_of, losses_of_descent, slope
from tests.support.tiny_store import written

TEACHER_DIM, BATCH = 6, 8


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    path: Path = tmp_path_factory.mktemp("store") / "cache.zarr"
    return written(path, SplitShape(rows=40, views=1, dim=TEACHER_DIM))


def seed(split: Split, anchors: int = 20, tau: float = 0.01, student_tau: float = 0.2) -> Seed:
    window = AnchorWindow(split.eligible(), anchors, BATCH, seed=0)
    return Seed(split, window, student_dim=STUDENT_DIM, tau=tau, student_tau=student_tau)


def embedding() -> Tensor:
    return torch.randn(BATCH, TEACHER_DIM, generator=torch.Generator().manual_seed(3))


def naive(objective: Seed, split: Split, student: Tensor, batch: Batch, step: int) -> float:
    """Return the cross-entropy of the softmaxes minus the teacher's entropy, term by term in float64."""
    window, losses = objective.teacher.queue.window.rows_at(step), []
    for mine, row in zip(student.double().numpy(), batch.rows.tolist(), strict=True):
        mine = mine / np.linalg.norm(mine)
        teacher = split.gather(np.array([row]))[0].astype(np.float64)
        others = split.gather(window[window != row]).astype(np.float64)
        anchors = [*others, teacher]
        weights = [math.exp((teacher @ anchor - 1) / objective.tau) for anchor in anchors]
        mine_weights = [math.exp((mine @ anchor) / objective.student_tau) for anchor in anchors]
        p = [weight / sum(weights) for weight in weights]
        q = [weight / sum(mine_weights) for weight in mine_weights]
        losses.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("taus", [(0.01, 0.2), (0.1, 0.1)])
def test_equals_the_papers_loss_term_by_term(split: Split, step: int, taus: tuple[float, float]) -> None:
    objective = seed(split, tau=taus[0], student_tau=taus[1])
    batch, student = eligible_batch(split, BATCH, seed=step), embedding()
    window = objective.teacher.queue.window.rows_at(step)
    in_window = np.isin(batch.rows.numpy(), window)
    assert in_window.any()  # such a row counts once, as the image's own anchor
    assert not in_window.all()
    loss = objective((student,), batch, step).item()
    # float32 logits of up to 100 are rounded by 4e-6
    assert loss == pytest.approx(naive(objective, split, student, batch, step), rel=1e-4)


def test_by_hand_one_anchor_and_the_image_itself(split: Split) -> None:
    """The teacher's weights are 1 : e^((cos - 1) / tau), those of a student halfway between both 1 : 1."""
    objective = seed(split, anchors=1, tau=1.0, student_tau=1.0)
    anchor = int(objective.teacher.queue.window.rows_at(0)[0])
    row = next(row for row in split.eligible() if row != anchor)
    teacher, other = (split.gather(np.array([r])).astype(np.float64)[0] for r in (row, anchor))
    middle = torch.from_numpy(teacher + other).float()[None]
    p = 1 / (1 + math.exp(float(teacher @ other) - 1))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    batch = Batch(
        images=(),
        rows=torch.tensor([row]),
        labels=torch.tensor([0]),
        teacher=torch.from_numpy(split.gather(np.array([row]))),
    )
    # float16 rows have length 1 to 5e-4 only
    assert objective((middle,), batch, 0).item() == pytest.approx(expected, abs=1e-3)


def test_the_gradient_agrees_with_finite_differences(split: Split) -> None:
    objective, batch = seed(split), eligible_batch(split, BATCH)
    # central differences are off by (step / tau) squared; gradients are about 0.2
    torch.testing.assert_close(
        gradient_of(objective, embedding(), batch),
        slope(objective, embedding(), batch),
        atol=1e-3,
        rtol=1e-2,
    )


def test_a_sharp_teacher_pulls_the_student_to_the_image_itself(split: Split) -> None:
    """At tau 0.01 the image has nearly all of the teacher's weight, so the teacher's embedding has a small loss."""
    objective, batch = seed(split), eligible_batch(split, BATCH)
    assert batch.teacher is not None
    at_home = objective((batch.teacher.float(),), batch, 0).item()
    away = objective((batch.teacher.float().roll(1, 0),), batch, 0).item()
    assert at_home < 0.5 * away


def test_equal_temperatures_leave_no_loss_at_the_teacher(split: Split) -> None:
    objective, batch = seed(split, tau=0.1, student_tau=0.1), eligible_batch(split, BATCH)
    assert batch.teacher is not None
    # the teacher's float16 rows are unit vectors to 5e-4 only, the student's to float32 precision
    assert abs(objective((batch.teacher.float(),), batch, 0).item()) < 1e-4


def test_the_loss_falls_and_nothing_is_saved(split: Split) -> None:
    objective = seed(split)
    losses = losses_of_descent(objective, (eligible_batch(split, BATCH, step) for step in range(60)), 0.1)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not objective.state_dict()


def test_bf16_differs_from_fp32_by_rounding_only(split: Split) -> None:
    batch, losses = eligible_batch(split, BATCH, seed=1), []
    for product_dtype in (torch.float32, torch.bfloat16):
        window = AnchorWindow(split.eligible(), 20, BATCH, seed=0)
        objective = Seed(
            split, window, student_dim=STUDENT_DIM, tau=0.2, student_tau=0.2, product_dtype=product_dtype
        )
        losses.append(objective((embedding(),), batch, 1).item())
    assert losses[0] != losses[1]
    # bfloat16 rounds logits of up to 5 to 8 bits
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_head_has_two_layers(split: Split) -> None:
    layers = list(seed(split).head().children())
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert seed(split).head()(torch.zeros(3, STUDENT_DIM)).shape == (3, TEACHER_DIM)
