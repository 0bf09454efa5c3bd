"""Nearest-neighbour evaluation against scikit-learn and the bare product."""

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluate import knn as nearest
from pipeline.evaluate.features import LabeledFeatures
from pipeline.neighbours import knn
from tests.benchmarks.figure import Figure, interleaved, ratio

ROWS, QUERIES, DIM, CLASSES, K = 50_000, 2_500, 512, 100, 20
CENTRES = 2_000


def measure(folder: Path) -> Iterator[Figure]:
    """Time rows in many small clusters, as trained networks produce them."""
    train, val = clustered_rows()
    a, b = torch.from_numpy(val.embedding), torch.from_numpy(train.embedding)
    seconds = interleaved(
        {
            "here": lambda: dict(nearest.evaluate(train, val)),
            "scikit-learn, cosine": lambda: by_scikit_learn(train, val, "cosine"),
            "scikit-learn, euclidean": lambda: by_scikit_learn(train, val, "euclidean"),
            "product": lambda: a @ b.T,
        }
    )
    middle = {name: statistics.median(of) for name, of in seconds.items()}
    peer = min((name for name in seconds if name.startswith("scikit")), key=middle.__getitem__)
    exact = exact_neighbours(train.embedding, val.embedding)
    found = knn(train.embedding, val.embedding, K)[1]
    flops = 2 * ROWS * QUERIES * DIM
    yield Figure(
        name="nearest",
        what=f"nn evaluation, {ROWS:,} x {DIM} against {QUERIES:,}, k = {K}",
        against=f"{peer}, the faster of its two",
        ratio=ratio(seconds, peer, "here"),
        unit="x its speed",
        at_least=1.2,
        seconds=seconds,
        bound=(
            f"arithmetic: {middle['here']:.2f} s here; the product alone, by torch, takes {middle['product']:.2f} s "
            f"({flops / middle['product'] / 1e9:.0f} GFLOP/s)"
        ),
        details={
            "seconds": middle,
            "mean cosine": mean_cosine(train),
            "of 50,000 neighbours, other than float64's": int((found != exact).sum()),
            "scikit-learn's accuracy": by_scikit_learn(train, val, "euclidean"),
            "accuracy": dict(nearest.evaluate(train, val))["nn20"],
        },
    )


def clustered_rows() -> tuple[LabeledFeatures, LabeledFeatures]:
    """Return unit rows after a ReLU, around 2,000 centres, 20 for each class."""
    draws = np.random.default_rng(0)
    centres = draws.standard_normal((CENTRES, DIM), dtype=np.float32)
    found = []
    for count in (ROWS, QUERIES):
        centre = draws.integers(0, CENTRES, count)
        rows = np.maximum(centres[centre] + 0.7 * draws.standard_normal((count, DIM), dtype=np.float32), 0)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        found.append(LabeledFeatures(rows, centre % CLASSES, CLASSES))
    return found[0], found[1]


def by_scikit_learn(train: LabeledFeatures, val: LabeledFeatures, metric: str) -> float:
    """Return scikit-learn's accuracy; on unit rows both metrics have the same neighbours."""
    classifier = KNeighborsClassifier(K, algorithm="brute", metric=metric).fit(train.embedding, train.label)
    return float(classifier.score(val.embedding, val.label))


def exact_neighbours(train: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the K neighbours by float64 products; among equals the first row comes first."""
    wide, found = train.astype(np.float64).T, []
    for start in range(0, len(query), 250):
        products = query[start : start + 250].astype(np.float64) @ wide
        best = np.argpartition(-products, 2 * K, axis=1)[:, : 2 * K]
        rank = np.lexsort((best, -np.take_along_axis(products, best, axis=1)), axis=1)[:, :K]
        found.append(np.take_along_axis(best, rank, axis=1))
    return np.concatenate(found)


def mean_cosine(rows: LabeledFeatures) -> float:
    mean = rows.embedding.mean(axis=0, dtype=np.float64)
    return float(mean @ mean)
