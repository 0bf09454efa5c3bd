"""Nearest-neighbour accuracy: cosine similarity, majority vote of the k nearest training rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.features import Features, require_comparable
from pipeline.neighbours import knn

NEIGHBOURS = (1, 20)


def evaluate(train: Features, val: Features, *, device: str = "cpu") -> Iterator[tuple[str, float]]:
    """Yields ("nn1", top-1) and ("nn20", top-1) of val, as fractions.

    Every training row votes where there are fewer than 20 of them.

    Raises:
        PipelineError: train and val do not belong together, or a row is not finite.
    """
    require_comparable(train, val)
    most = min(max(NEIGHBOURS), len(train.label))
    index = knn(train.embedding, val.embedding, most, device)[1]
    labels = train.label[index]
    for k in NEIGHBOURS:
        yield f"nn{k}", float(np.mean(majority(labels[:, :k]) == val.label))


def majority(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each row: (m, k) -> (m,).

    A tie goes to the smallest label, as in scikit-learn's KNeighborsClassifier with uniform weights.
    """
    votes = np.count_nonzero(labels[:, :, None] == labels[:, None, :], axis=2)
    winners = votes == votes.max(axis=1, keepdims=True)
    return np.where(winners, labels, np.iinfo(np.int64).max).min(axis=1)
