import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.layout import SplitShape
from cache.reader import Split
from pipeline.errors import WrongUse
from pipeline.loading.batch import Batch
from pipeline.objectives.supervised import Supervised, labeled_classes
from tests.support.tiny_batch import STUDENT_DIM, gradient_of, losses_of_descent
from tests.support.tiny_store import written


def supervised(classes: int = 3) -> Supervised:
    return Supervised(student_dim=STUDENT_DIM, classes=classes)


def batch_of(labels: list[int]) -> Batch:
    """Return images of noise with one bright channel, that of their class."""
    images = torch.randn(len(labels), 3, 4, 4, generator=torch.Generator().manual_seed(len(labels)))
    images[range(len(labels)), labels] += 2
    return Batch(images=(images,), rows=torch.arange(len(labels)), labels=torch.tensor(labels))


def test_by_hand() -> None:
    """With two classes, odds of 3 : 1 for the right one give a loss of log 4/3; against it, of log 4."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    loss = supervised(2)((logits,), batch_of([0, 1]), 0)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-6)


def test_value_and_gradient_equal_a_loop_over_rows() -> None:
    labels = [0, 2, 1, 1]
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    total, gradient = 0.0, torch.zeros(4, 3)
    for i, label in enumerate(labels):
        weights = [math.exp(logit) for logit in logits[i].tolist()]
        total -= math.log(weights[label] / sum(weights)) / 4
        for j in range(3):
            gradient[i, j] = (weights[j] / sum(weights) - (j == label)) / 4
    assert supervised()((logits,), batch_of(labels), 0).item() == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(gradient_of(supervised(), logits, batch_of(labels)), gradient)


def test_planted_classes_are_learned_without_a_teacher() -> None:
    batches = (batch_of(torch.arange(30).remainder(3).tolist()) for _ in range(60))
    losses = losses_of_descent(supervised(), batches, 0.3)
    # chance is log 3: the first network is near it, the last is certain
    assert losses[0] > 0.8
    assert losses[-1] < 0.1
    assert not supervised().needs_teacher
    assert not supervised().state_dict()


def test_rows_without_a_label_are_refused(tmp_path: Path) -> None:
    split: Split = written(tmp_path / "cache.zarr", SplitShape(rows=40, views=1, dim=6))
    labelled = np.flatnonzero(split.label >= 0)
    assert labeled_classes(split, labelled) == 2
    with pytest.raises(WrongUse, match="needs labels, but 14 of 40 rows have none"):
        labeled_classes(split, np.arange(40))
