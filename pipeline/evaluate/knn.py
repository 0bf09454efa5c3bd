"""k-NN accuracy: majority vote of the k nearest training rows by cosine similarity."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluate.features import LabeledFeatures, require_comparable
from pipeline.runtime.device import CPU

NEIGHBOURS = (1, 20)


def evaluate(
    train: LabeledFeatures, val: LabeledFeatures, *, device: torch.device = CPU
) -> Iterator[tuple[str, float]]:
    """Yield ("nn1", accuracy) and ("nn20", accuracy) on val. With fewer than 20 training rows, all of them vote.

    Raises PipelineError when train and val differ in dim or classes, or a row is not finite.
    """
    from pipeline.neighbours import knn  # here, so that training without k-NN needs no faiss

    require_comparable(train, val)
    most = min(max(NEIGHBOURS), len(train.label))
    index = knn(train.embedding, val.embedding, most, device)[1]
    yield from accuracies(train.label[index], val.label)


def accuracies(labels: NDArray[np.int64], truth: NDArray[np.int64]) -> Iterator[tuple[str, float]]:
    """Yield the accuracies of `evaluate`. labels: those of the nearest rows, nearest first (m, k). truth: (m,)."""
    for k in NEIGHBOURS:
        yield f"nn{k}", float(np.mean(majority(labels[:, :k]) == truth))


def majority(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most frequent label of each row, (m, k) -> (m,); the smallest one in a tie, as scikit-learn does."""
    votes = np.count_nonzero(labels[:, :, None] == labels[:, None, :], axis=2)
    winners = votes == votes.max(axis=1, keepdims=True)
    return np.where(winners, labels, np.iinfo(np.int64).max).min(axis=1)
