"""Cluster alignment: how well k-means clusters, one per class, match the classes.

The protocol of CompRess (Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020, arXiv 2010.14713).
"""

import statistics
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline.errors import WrongUse
from pipeline.evaluate.features import LabeledFeatures, require_comparable
from pipeline.neighbours import kmeans, nearest_centroid
from pipeline.runtime.device import CPU


def evaluate(
    train: LabeledFeatures, val: LabeledFeatures, *, seeds: int = 5, seed: int = 0, device: torch.device = CPU
) -> Iterator[tuple[str, float]]:
    """Yield ("ca", top-1 accuracy on val): the mean over `seeds` random starts of k-means.

    With several starts, ("ca_std", sample standard deviation) follows. Clusters are found in train and mapped to
    classes by its labels; each val row gets the class of its nearest centroid.

    Raises:
        WrongUse: seeds is below 1.
        PipelineError: train and val differ in dim or classes, or train has fewer rows than classes.
    """
    require_comparable(train, val)
    if seeds < 1:
        raise WrongUse(f"--ca-seeds {seeds}: expected at least one random start")
    accuracies = [_accuracy(train, val, seed * seeds + start, device) for start in range(seeds)]
    yield "ca", statistics.fmean(accuracies)
    if seeds > 1:
        yield "ca_std", statistics.stdev(accuracies)


def _accuracy(train: LabeledFeatures, val: LabeledFeatures, seed: int, device: torch.device) -> float:
    centroids, assignment = kmeans(train.embedding, train.classes, iterations=20, seed=seed, device=device)
    mapping = align(contingency(assignment, train.label, train.classes, train.classes))
    predicted = mapping[nearest_centroid(val.embedding, centroids, device)]
    return float(np.mean(predicted == val.label))


def contingency(
    assignment: NDArray[np.int64], label: NDArray[np.int64], clusters: int, classes: int
) -> NDArray[np.int64]:
    """Count the rows of each class in each cluster: assignment (n,), label (n,) -> (clusters, classes)."""
    pairs = np.bincount(assignment * classes + label, minlength=clusters * classes)
    return pairs.reshape(clusters, classes)


def align(contingency: NDArray[np.int64]) -> NDArray[np.int64]:
    """Assign classes to clusters one to one, maximizing the sum of |cluster and class| / |cluster|.

    contingency (k, k) counts rows. Returns the class of each cluster, (k,) int64. An empty cluster gets one of the
    remaining classes.
    """
    sizes = contingency.sum(axis=1, keepdims=True)
    scores = contingency / np.maximum(sizes, 1)
    return linear_sum_assignment(scores, maximize=True)[1]
