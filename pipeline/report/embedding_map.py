"""The validation embeddings of a system on a plane, coloured by class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from cache.reader import Store
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.report.rows import drawn, split_of, unit_rows

POINTS = 2000
COMPONENTS = 50  # that t-SNE gets of PCA, as its authors advise
PERPLEXITY = 30.0
COLOURS = 10
SIDE = 1000  # of the plane that points are placed on


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Points of each coloured class, and of all others together, as data of an SVG path; `points` in all.

    The plane is SIDE wide and `height` high.
    """

    name: str
    points: int
    height: int
    classes: list[tuple[str, str]]
    others: str


def embedding_map(name: str, store: Store, dataset: Dataset, seed: int) -> EmbeddingMap:
    """PCA, then t-SNE (van der Maaten and Hinton 2008), of random validation rows; the same rows for every system.

    Raises StoreError, or PipelineError where there are too few rows.
    """
    images = dataset.splits["val"]
    split = split_of(store, images)
    rows = drawn(split, POINTS, seed)
    if len(rows) < 5:
        raise PipelineError(f"{len(rows)} validation images make no map: it takes five")
    place = placed(unit_rows(split, rows), seed)
    labels = images.labels[rows]
    coloured = frequent(labels, len(images.classes))
    return EmbeddingMap(
        name=name,
        points=len(rows),
        height=int(place[:, 1].max()),
        classes=[(images.classes[label], dots(place[labels == label])) for label in coloured],
        others=dots(place[~np.isin(labels, coloured)]),
    )


def placed(embedding: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """(n, D) -> (n, 2) from 0, to SIDE along x, which is the longer axis."""
    components = min(COMPONENTS, *embedding.shape)
    reduced = PCA(components, random_state=seed).fit_transform(embedding)
    perplexity = min(PERPLEXITY, (len(embedding) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    extent = np.ptp(plane, axis=0)
    if extent[1] > extent[0]:
        plane, extent = plane[:, ::-1], extent[::-1]
    return np.rint((plane - plane.min(axis=0)) / max(extent[0], 1e-9) * SIDE).astype(np.int64)


def frequent(labels: NDArray[np.int64], classes: int) -> list[int]:
    """The classes that get a colour: all of few, else the most frequent; in their own order."""
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    most = np.argsort(-counts, kind="stable")[:COLOURS]
    return sorted(int(label) for label in most if counts[label])


def dots(points: NDArray[np.int64]) -> str:
    """Lines of no length, which round caps make dots."""
    return "".join(f"M{x} {y}h0" for x, y in points)
