"""Each objective computes on a GPU what it computes on the CPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.runtime.device import CPU
from tests.support.objective_cases import BATCH, CASES, NAMES, Steps, objectives, trained_rows

STEPS = 4


def drawn_batch(split: Split, views: int, step: int, device: torch.device, *, live: bool) -> Batch:
    """Return the same batch of rows that have a label, for any device."""
    draws = torch.Generator().manual_seed(step)
    chosen = trained_rows(split)
    rows = torch.from_numpy(chosen)[torch.randperm(len(chosen), generator=draws)[:BATCH]]
    images = tuple(torch.randn(BATCH, 3, 4, 4, generator=draws).to(device) for _ in range(views))
    teacher = torch.from_numpy(split.gather(rows.numpy()))
    norm = torch.rand(BATCH, generator=draws) + 0.5
    if live:
        teacher = F.normalize(torch.randn(BATCH, teacher.shape[1], generator=draws), dim=1)
    return Batch(
        images=images,
        rows=rows.to(device),
        labels=torch.from_numpy(split.label)[rows].to(device),
        teacher=teacher.to(device),
        teacher_norm=norm.to(device) if live else None,
    )


def losses_and_gradients(
    split: Split, name: str, changes: dict[str, Any], device: torch.device
) -> tuple[list[float], list[Tensor]]:
    """Return the losses of a few steps, and the gradients of all."""
    live = "live_teacher" in changes
    steps = Steps(objectives(split, name, changes)[0])
    steps.start(device)
    losses, gradients = list[float](), list[Tensor]()
    for step in range(STEPS):
        torch.manual_seed(step)
        losses.append(float(steps.run(drawn_batch(split, steps.objective.views, step, device, live=live))))
        gradients += [each.clone() for each in steps.gradients()]
    return losses, gradients


@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
def test_losses_and_gradients_are_the_cpus(
    split: Split, device: torch.device, name: str, changes: dict[str, Any]
) -> None:
    expected_losses, expected_gradients = losses_and_gradients(split, name, changes, CPU)
    found_losses, found_gradients = losses_and_gradients(split, name, changes, device)
    # bfloat16 logits are rounded on the CPU and not on a GPU
    loss_error, gradient_error = (0.02, 0.05) if changes.get("loss_dtype") == "bf16" else (1e-5, 1e-4)
    assert found_losses == pytest.approx(expected_losses, rel=loss_error, abs=loss_error)
    for found, expected in zip(found_gradients, expected_gradients, strict=True):
        assert (found - expected).norm() <= gradient_error * max(float(expected.norm()), 1e-3)
