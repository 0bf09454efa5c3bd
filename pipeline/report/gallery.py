"""Images that the embeddings bring together: random images of random clusters, and nearest neighbours."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cache.reader import Store
from pipeline.evaluate.features import unit_rows
from pipeline.images.dataset import Dataset, DatasetSplit
from pipeline.images.decode import decode
from pipeline.neighbours import kmeans
from pipeline.report.rows import nearest_rows, open_split, sample_rows

CLUSTERS, IMAGES = 8, 10  # shown
CLUSTERED_ROWS = 20_000
UNLABELLED_CLUSTERS = 50
QUERIES, NEIGHBOURS = 8, 5
SIDE = 96  # px; smaller images keep their size


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A square thumbnail as a data URI, with the image's class ("" if none) and file name."""

    uri: str
    label: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Random images of a cluster of `size` rows; its most frequent class, and that class's share of labelled rows."""

    images: list[Thumbnail]
    size: int
    label: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Random clusters of a system, out of k clusters of `rows` rows."""

    name: str
    k: int
    rows: int
    clusters: list[Cluster]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """A query image and, for each system, its nearest training images, the nearest first."""

    query: Thumbnail
    found: dict[str, list[Thumbnail]]


def clustering(name: str, store: Store, dataset: Dataset, seed: int) -> Clustering:
    """Cluster training embeddings by k-means, with one cluster per class, and show images of some clusters.

    Raises StoreError, or PipelineError as `thumbnail`.
    """
    images = dataset.splits["train"]
    split = open_split(store, images)
    rows = sample_rows(split, CLUSTERED_ROWS, seed)
    k = min(len(images.classes) or UNLABELLED_CLUSTERS, len(rows))
    assignment = kmeans(unit_rows(split, rows), k, iterations=20, seed=seed)[1]
    draws = np.random.default_rng(seed)
    chosen = draws.permutation(np.unique(assignment))[:CLUSTERS]
    clusters = []
    for cluster in chosen:
        members = rows[assignment == cluster]
        shown = draws.permutation(members)[:IMAGES]
        label, share = most_frequent(images.labels[members], images.classes)
        thumbnails = [thumbnail(images, row) for row in shown]
        clusters.append(Cluster(images=thumbnails, size=len(members), label=label, share=share))
    return Clustering(name=name, k=k, rows=len(rows), clusters=clusters)


def most_frequent(labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent class and its share of the labelled rows, or ("", 0) without labels."""
    labelled = labels[labels >= 0]
    if not labelled.size:
        return "", 0.0
    counts = np.bincount(labelled, minlength=len(classes))
    return classes[int(counts.argmax())], float(counts.max() / labelled.size)


def neighbours(stores: Mapping[str, Store], dataset: Dataset, seed: int) -> list[Neighbours]:
    """Find the nearest training images of random validation images, the same ones for every system.

    Raises StoreError, or PipelineError as `thumbnail`.
    """
    train, val = dataset.splits["train"], dataset.splits["val"]
    usable = [open_split(store, val).eligible() for store in stores.values()]
    shared = [row for row in usable[0] if all(np.isin(row, rows) for rows in usable[1:])]
    queries = np.random.default_rng(seed).permutation(np.array(shared))[:QUERIES]
    found = {}
    for name, store in stores.items():
        embedding = unit_rows(open_split(store, val), queries)
        found[name] = nearest_rows(open_split(store, train), embedding, NEIGHBOURS)
    return [
        Neighbours(
            query=thumbnail(val, query),
            found={name: [thumbnail(train, row) for row in rows[number]] for name, rows in found.items()},
        )
        for number, query in enumerate(queries)
    ]


def thumbnail(split: DatasetSplit, row: int) -> Thumbnail:
    """Return the thumbnail of a readable row's original image.

    Raises WrongUse if the images are no longer there, PipelineError if this one has changed.
    """
    label = int(split.labels[row])
    return Thumbnail(
        uri=data_uri(decode(split.source.read(row))),
        label=split.classes[label] if label >= 0 else "",
        name=split.names[row],
    )


def data_uri(image: Image.Image) -> str:
    """Return the centre square as a JPEG data URI of at most SIDE pixels."""
    side = min(*image.size, SIDE)
    jpeg = io.BytesIO()
    square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    square.save(jpeg, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
