"""The streamed loss with as many anchors as the paper has, against float64, and its anchors divided among ranks."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.objectives.compress import reference_loss
from pipeline.objectives.shards import slots_of_rank
from pipeline.objectives.streamed import SimilarityLoss
from tests.support.two_ranks import on_two_ranks

ANCHORS, QUERIES, DIM, TAU = 131_072, 32, 512, 0.04
# Relative errors of the loss and of its gradient, for a KL of about 0.35. TF32 and bfloat16 round the factors by 2^-11
# and 2^-9, which the division by tau and the difference of two means in the gradient enlarge.
BOUNDS = {"fp32": (1e-5, 1e-4), "tf32": (1e-3, 1e-2), "bf16": (1e-2, 5e-2)}


def inputs(device: torch.device, count: int = ANCHORS) -> tuple[Tensor, Tensor, Tensor]:
    """Return the student's and the teacher's queries, which are close, and float16 anchors: unit rows."""
    draws = torch.Generator().manual_seed(0)
    teacher = torch.randn(QUERIES, DIM, generator=draws)
    student = teacher + torch.randn(QUERIES, DIM, generator=draws)
    anchors = torch.randn(count, DIM, generator=draws)
    anchors[::8] += (
        teacher[torch.arange(len(anchors[::8])) % QUERIES] / 2
    )  # near ones, or p is nearly uniform
    rows = [F.normalize(each, dim=1).to(device) for each in (student, teacher, anchors)]
    return rows[0], rows[1], rows[2].half()


def loss_and_gradient(
    loss: SimilarityLoss, student: Tensor, teacher: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor]:
    query = student.clone().requires_grad_()
    value = loss(query, teacher, anchors, anchors)
    value.backward()
    assert query.grad is not None
    return value.detach(), query.grad


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", BOUNDS)
def test_with_131072_anchors_it_is_the_loss_in_float64(device: torch.device, precision: str) -> None:
    if device.type == "cpu" and precision == "bf16":
        pytest.skip("the CPU rounds logits to bfloat16")
    student, teacher, anchors = inputs(device)
    query = student.double().requires_grad_()
    expected = reference_loss(query, teacher.double(), anchors.double(), anchors.double(), TAU)
    expected.backward()
    assert query.grad is not None
    if precision == "bf16":
        anchors = anchors.bfloat16()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    loss = SimilarityLoss(tau=TAU, product_dtype=dtype, tf32=precision == "tf32")
    found, gradient = loss_and_gradient(loss, student, teacher, anchors)
    errors = relative(found, expected.detach()), relative(gradient, query.grad)
    assert all(error <= bound for error, bound in zip(errors, BOUNDS[precision], strict=True)), errors


def sharded(rank: int, device: torch.device, count: int) -> tuple[Tensor, Tensor]:
    """Return the loss and gradient of this rank's share of the anchors."""
    student, teacher, anchors = inputs(device, count)
    held = slots_of_rank(count)
    loss = SimilarityLoss(tau=TAU, sharded=True)
    found = loss_and_gradient(loss, student, teacher, anchors[held.start : held.stop])
    return found[0].cpu(), found[1].cpu()


def test_two_ranks_with_half_of_the_anchors_each_have_the_loss_of_one(
    device: torch.device, tmp_path: Path
) -> None:
    count = 4097
    expected = loss_and_gradient(SimilarityLoss(tau=TAU), *inputs(device, count))
    for found in on_two_ranks(sharded, tmp_path, device, count):
        assert relative(found[0], expected[0].cpu().double()) < 1e-5
        assert relative(found[1], expected[1].cpu().double()) < 1e-4
