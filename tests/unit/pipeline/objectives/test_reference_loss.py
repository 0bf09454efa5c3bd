"""The reference loss, on which the tests of the objectives rest, against one query and one anchor at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.objectives.compress import reference_loss


def unit_rows(rows: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def naive(
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor,
    teacher_anchors: Tensor,
    tau: float,
    self_index: list[int],
) -> tuple[float, Tensor]:
    """The loss and its gradient, term by term."""
    loss, gradient = 0.0, torch.zeros_like(student)
    for i in range(len(student)):
        slots = [j for j in range(len(anchors)) if j != self_index[i]]
        if not slots:
            continue
        logits_t = [(teacher[i] @ teacher_anchors[j]).item() / tau for j in slots]
        logits_s = [(student[i] @ anchors[j]).item() / tau for j in slots]
        p_t, p_s = softmax(logits_t), softmax(logits_s)
        log_z_t = max(logits_t) + math.log(sum(math.exp(logit - max(logits_t)) for logit in logits_t))
        log_z_s = max(logits_s) + math.log(sum(math.exp(logit - max(logits_s)) for logit in logits_s))
        for j, t, s, logit_t, logit_s in zip(slots, p_t, p_s, logits_t, logits_s, strict=True):
            loss += t * ((logit_t - log_z_t) - (logit_s - log_z_s)) / len(student)
            gradient[i] += (s - t) * anchors[j] / tau / len(student)
    return loss, gradient


@pytest.mark.parametrize("tau", [0.01, 0.02, 0.04, 0.07, 1.0])
@pytest.mark.parametrize("anchors", [1, 4, 11])
@pytest.mark.parametrize("queries", [1, 3])
def test_equals_the_sum_term_by_term(queries: int, anchors: int, tau: float) -> None:
    self_index = [0, -1, 9][:queries]
    student = unit_rows(queries, 5, 1).requires_grad_()
    inputs = (unit_rows(queries, 7, 0), unit_rows(anchors, 5, 2), unit_rows(anchors, 7, 3))
    loss = reference_loss(student, *inputs, tau, torch.tensor(self_index))
    loss.backward()
    expected, gradient = naive(student.detach(), *inputs, tau, self_index)
    # logits reach 1/tau: float64 rounds the loss by about 1e-16/tau, and the gradient is divided by tau once more
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-13 / tau)
    torch.testing.assert_close(student.grad, gradient, rtol=1e-6, atol=1e-13 / tau**2)


def test_value_by_hand() -> None:
    # teacher weights e : 1, student weights 1 : e; KL = (e - 1) / (e + 1)
    anchors = torch.eye(2, dtype=torch.float64)
    loss = reference_loss(anchors[:1], anchors[1:], anchors, anchors, tau=1.0)
    assert loss.item() == pytest.approx((math.e - 1) / (math.e + 1), abs=1e-15)


def test_a_query_whose_only_anchor_is_itself_has_no_loss() -> None:
    student, anchor = unit_rows(1, 4, 0).requires_grad_(), unit_rows(1, 4, 1)
    loss = reference_loss(student, unit_rows(1, 4, 2), anchor, anchor, 0.04, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
