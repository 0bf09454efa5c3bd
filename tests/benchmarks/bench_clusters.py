"""Cluster alignment's scoring and assignment at the size of ImageNet, against intersections of sets."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.cluster_alignment import align, contingency
from tests.benchmarks.figure import Figure, interleaved, ratio

IMAGES, CLASSES = 1_281_167, 1_000
SHARE = 100  # one in so many of the intersections is timed


def measure(folder: Path) -> Iterator[Figure]:
    """Time clusters that each hold a third of one class, the rest at random; building the sets is not timed."""
    draws = np.random.default_rng(0)
    label = draws.integers(0, CLASSES, IMAGES)
    assignment = np.where(draws.random(IMAGES) < 1 / 3, label, draws.integers(0, CLASSES, IMAGES))
    clusters, classes = members(assignment), members(label)
    counted = contingency(assignment, label, CLASSES, CLASSES)
    sizes = counted[: CLASSES // SHARE].sum(axis=1, keepdims=True)
    assert np.array_equal(by_sets(clusters[: CLASSES // SHARE], classes), counted[: CLASSES // SHARE] / sizes)
    assert np.array_equal(align(counted), np.arange(CLASSES))
    seconds = interleaved(
        {
            "counting and assignment": lambda: align(contingency(assignment, label, CLASSES, CLASSES)),
            "counting": lambda: contingency(assignment, label, CLASSES, CLASSES),
            "1 % of the intersections": lambda: by_sets(clusters[: CLASSES // SHARE], classes),
        }
    )
    middle = {name: statistics.median(of) for name, of in seconds.items()}
    what = f"cluster alignment's scoring and assignment, {IMAGES:,} images, {CLASSES:,} classes"
    bound = (
        f"one pass over both columns takes {1e3 * middle['counting']:.0f} ms "
        f"({2 * 8 * IMAGES / middle['counting'] / 1e9:.1f} GB/s), the assignment the rest"
    )
    yield Figure(
        name="clusters",
        what=what,
        against="a million intersections of Python sets, without an assignment: 1 % timed, times 100",
        ratio=SHARE * ratio(seconds, "1 % of the intersections", "counting and assignment"),
        unit="x its speed",
        at_least=1000,
        seconds=seconds,
        bound=bound,
    )
    yield Figure(
        name="clusters-seconds",
        what=what,
        against="the clock",
        ratio=middle["counting and assignment"],
        unit="s",
        at_most=2,
        seconds=seconds,
        bound=bound,
    )


def members(kind: NDArray[np.int64]) -> list[set[int]]:
    """Return the rows of each kind as a set."""
    order = np.argsort(kind, kind="stable")
    ends = np.bincount(kind, minlength=CLASSES).cumsum()
    return [set(part.tolist()) for part in np.split(order, ends[:-1])]


def by_sets(clusters: Sequence[set[int]], classes: Sequence[set[int]]) -> NDArray[np.float64]:
    """Return the share of each class in each cluster."""
    return np.array([[len(cluster & rows) / len(cluster) for rows in classes] for cluster in clusters])
