from pathlib import Path

import pytest
import torch
from torch import nn

from cache.layout import SplitShape
from cache.reader import Split
from pipeline.objectives.regression import Regression
from pipeline.objectives.simreg import SimReg
from tests.support.tiny_batch import STUDENT_DIM, eligible_batch, gradient_of, losses_of_descent, slope
from tests.support.tiny_store import written

TEACHER_DIM, BATCH = 6, 12


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return written(tmp_path / "cache.zarr", SplitShape(rows=40, views=1, dim=TEACHER_DIM))


def simreg() -> SimReg:
    return SimReg(student_dim=STUDENT_DIM, teacher_dim=TEACHER_DIM)


def test_the_head_has_the_papers_four_layers() -> None:
    kinds = [type(layer) for layer in simreg().head().children()]
    assert kinds == 2 * [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    linear = [layer for layer in simreg().head().modules() if isinstance(layer, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    assert widths == [(5, 10), (10, 5), (5, 10), (10, TEACHER_DIM)]


def test_the_head_equals_its_layers_written_out() -> None:
    torch.manual_seed(0)
    head, features = simreg().head(), torch.randn(BATCH, STUDENT_DIM)
    a, b, c, d = (layer for layer in head.modules() if isinstance(layer, nn.Linear))

    def hidden(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        x = x @ layer.weight.T + layer.bias
        return ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()).clamp_min(0)

    middle = hidden(a, features) @ b.weight.T + b.bias
    expected = hidden(c, middle) @ d.weight.T + d.bias
    # four layers of float32 sums of at most ten terms
    torch.testing.assert_close(head(features), expected, atol=1e-5, rtol=1e-5)


def test_the_loss_is_that_of_regression_by_hand(split: Split) -> None:
    batch = eligible_batch(split, BATCH)
    assert batch.teacher is not None
    teacher = batch.teacher.float()
    assert simreg()((5 * teacher,), batch, 0).item() < 1e-12
    assert simreg()((-teacher,), batch, 0).item() == pytest.approx(4, abs=1e-6)
    other = torch.randn(BATCH, TEACHER_DIM, generator=torch.Generator().manual_seed(0))
    plain = Regression(student_dim=STUDENT_DIM, teacher_dim=TEACHER_DIM)
    assert simreg()((other,), batch, 0).item() == plain((other,), batch, 0).item()
    # as in test_regression.py
    torch.testing.assert_close(
        gradient_of(simreg(), other, batch), slope(simreg(), other, batch), atol=1e-4, rtol=1e-3
    )


def test_the_loss_falls_and_nothing_is_saved(split: Split) -> None:
    losses = losses_of_descent(simreg(), (eligible_batch(split, BATCH, step) for step in range(60)), 0.1)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not simreg().state_dict()
