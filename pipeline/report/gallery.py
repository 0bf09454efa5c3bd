"""What the embeddings bring together, in pictures: random images of random clusters, and nearest neighbours."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cache.reader import Store
from pipeline.images.dataset import Dataset, DatasetSplit
from pipeline.images.decode import decode
from pipeline.neighbours import kmeans
from pipeline.report.rows import drawn, nearest_rows, split_of, unit_rows

CLUSTERS, IMAGES = 8, 10  # shown
CLUSTERED_ROWS = 20_000
UNLABELLED_CLUSTERS = 50
QUERIES, NEIGHBOURS = 8, 5

SIDE = 96  # pixels; a smaller image keeps its own size


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A square picture: its data URI, the class of the image ("" if none), and the name of its file."""

    uri: str
    label: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Random images of one cluster; mostly: its most frequent class and that class's share, of labelled rows."""

    pictures: list[Picture]
    size: int
    mostly: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Random clusters of one system; k clusters of so many rows."""

    name: str
    k: int
    rows: int
    clusters: list[Cluster]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A query, and by system's name its nearest training images, the best first."""

    query: Picture
    found: dict[str, list[Picture]]


def clustering(name: str, store: Store, dataset: Dataset, seed: int) -> Clustering:
    """k-means of a system's training embeddings, as many clusters as classes, and some clusters' images.

    Raises StoreError, or PipelineError as `picture`.
    """
    images = dataset.splits["train"]
    split = split_of(store, images)
    rows = drawn(split, CLUSTERED_ROWS, seed)
    k = min(len(images.classes) or UNLABELLED_CLUSTERS, len(rows))
    assignment = kmeans(unit_rows(split, rows), k, iterations=20, seed=seed)[1]
    draws = np.random.default_rng(seed)
    chosen = draws.permutation(np.unique(assignment))[:CLUSTERS]
    clusters = []
    for cluster in chosen:
        members = rows[assignment == cluster]
        shown = draws.permutation(members)[:IMAGES]
        mostly, share = majority(images.labels[members], images.classes)
        pictures = [picture(images, row) for row in shown]
        clusters.append(Cluster(pictures=pictures, size=len(members), mostly=mostly, share=share))
    return Clustering(name=name, k=k, rows=len(rows), clusters=clusters)


def majority(labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[str, float]:
    """The most frequent class and its share of the labelled; ("", 0) where there are none."""
    labelled = labels[labels >= 0]
    if not labelled.size:
        return "", 0.0
    counts = np.bincount(labelled, minlength=len(classes))
    return classes[int(counts.argmax())], float(counts.max() / labelled.size)


def strips(stores: Mapping[str, Store], dataset: Dataset, seed: int) -> list[Strip]:
    """The same random validation images asked of every system, in the order of `stores`.

    Raises StoreError, or PipelineError as `picture`.
    """
    asked, images = dataset.splits["val"], dataset.splits["train"]
    usable = [split_of(store, asked).eligible() for store in stores.values()]
    shared = [row for row in usable[0] if all(np.isin(row, rows) for rows in usable[1:])]
    queries = np.random.default_rng(seed).permutation(np.array(shared))[:QUERIES]
    found = {}
    for name, store in stores.items():
        query = unit_rows(split_of(store, asked), queries)
        found[name] = nearest_rows(split_of(store, images), query, NEIGHBOURS)
    return [
        Strip(
            query=picture(asked, row),
            found={name: [picture(images, near) for near in rows[number]] for name, rows in found.items()},
        )
        for number, row in enumerate(queries)
    ]


def picture(split: DatasetSplit, row: int) -> Picture:
    """The centre square of a readable row's original image.

    Raises WrongUse when the images are no longer where they were, PipelineError when this one is another.
    """
    label = int(split.labels[row])
    return Picture(
        uri=data_uri(decode(split.source.read(row))),
        label=split.classes[label] if label >= 0 else "",
        name=split.names[row],
    )


def data_uri(image: Image.Image) -> str:
    """The centre square as a JPEG of at most SIDE pixels."""
    side = min(*image.size, SIDE)
    written = io.BytesIO()
    square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    square.save(written, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")
