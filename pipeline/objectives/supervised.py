"""Supervised training, the baseline in the upper row of the paper's tables."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.reader import Split
from pipeline.errors import WrongUse
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective


class Supervised(Objective):
    """Cross-entropy of a linear classifier on the labels. It needs no teacher."""

    needs_teacher = False

    def __init__(self, *, student_dim: int, classes: int) -> None:
        super().__init__()
        self.student_dim = student_dim
        self.classes = classes

    def describe(self) -> str:
        return f"supervised, {self.classes:,} classes"

    def head(self) -> nn.Module:
        return nn.Linear(self.student_dim, self.classes)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        return F.cross_entropy(embeddings[0].float(), batch.labels)


def labeled_classes(split: Split, rows: NDArray[np.int64]) -> int:
    """Return the number of classes of a split. WrongUse unless each of `rows` has a label."""
    missing = int((split.label[rows] < 0).sum())
    if missing:
        raise WrongUse(
            f"the objective supervised needs labels, but {missing:,} of {len(rows):,} rows have none: "
            "pack images in class folders, or choose an objective that needs no labels"
        )
    return len(split.dataset["classes"])
