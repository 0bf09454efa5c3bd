"""A two-dimensional map of a system's validation embeddings, coloured by class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from cache.reader import Store
from pipeline.errors import PipelineError
from pipeline.evaluate.features import unit_rows
from pipeline.images.dataset import Dataset
from pipeline.report.rows import open_split, sample_rows

POINTS = 2000
FEWEST_POINTS = 5
COMPONENTS = 50  # of the PCA before t-SNE, as its authors advise
PERPLEXITY = 30.0
COLOURS = 10
SIDE = 1000  # width of the map


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """A map of `points` embeddings, SIDE wide and `height` high.

    classes: (name, SVG path data of its points) for each coloured class. others: path data of all other points.
    """

    name: str
    points: int
    height: int
    classes: list[tuple[str, str]]
    others: str


def embedding_map(name: str, store: Store, dataset: Dataset, seed: int) -> EmbeddingMap:
    """Map random validation rows by PCA, then t-SNE (van der Maaten and Hinton 2008).

    All systems share the rows, which depend on the seed. Raises StoreError, or PipelineError if there are too few rows.
    """
    images = dataset.splits["val"]
    split = open_split(store, images)
    rows = sample_rows(split, POINTS, seed)
    if len(rows) < FEWEST_POINTS:
        raise PipelineError(f"{len(rows)} validation images are too few for a map: expected {FEWEST_POINTS}")
    points = project(unit_rows(split, rows), seed)
    labels = images.labels[rows]
    coloured = most_frequent(labels, len(images.classes))
    return EmbeddingMap(
        name=name,
        points=len(rows),
        height=int(points[:, 1].max()),
        classes=[(images.classes[label], dots(points[labels == label])) for label in coloured],
        others=dots(points[~np.isin(labels, coloured)]),
    )


def project(embedding: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """Project embeddings (n, D) to points (n, 2); the longer axis is x, from 0 to SIDE."""
    plane = placed(embedding, seed)
    extent = np.ptp(plane, axis=0)
    if extent[1] > extent[0]:
        plane, extent = plane[:, ::-1], extent[::-1]
    return np.rint((plane - plane.min(axis=0)) / max(extent[0], 1e-9) * SIDE).astype(np.int64)


def placed(embedding: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Place embeddings (n, D) in the plane by PCA, then t-SNE: (n, 2). If all are the same they lie in one point."""
    if not np.ptp(embedding, axis=0).any():  # t-SNE would divide by their deviation, and then crash
        return np.zeros((len(embedding), 2), np.float32)
    reduced = PCA(min(COMPONENTS, *embedding.shape), random_state=seed).fit_transform(embedding)
    perplexity = min(PERPLEXITY, (len(embedding) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(tsne.fit_transform(reduced), np.float32)


def most_frequent(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Return the classes that get a colour, ascending: all of them, or the COLOURS most frequent ones."""
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    most = np.argsort(-counts, kind="stable")[:COLOURS]
    return sorted(int(label) for label in most if counts[label])


def dots(points: NDArray[np.int64]) -> str:
    """Return SVG path data of zero-length lines, which round line caps draw as dots."""
    return "".join(f"M{x} {y}h0" for x, y in points)
