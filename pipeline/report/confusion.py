"""The confusion matrix of a system's k-NN classifier."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.reader import Store
from pipeline.errors import PipelineError
from pipeline.evaluate.cluster_alignment import contingency
from pipeline.evaluate.features import unit_rows
from pipeline.evaluate.knn import majority
from pipeline.images.dataset import Dataset
from pipeline.report.rows import nearest_rows, open_split, sample_rows

MOST_QUERIES = 5000  # validation images
NEIGHBOURS = 20
MOST_TABLE_CLASSES = 20  # with more, the matrix is shown as an image
PAIRS = 10


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """The confusion matrix of a system.

    shares (classes, classes): fraction of the images of a class (row) predicted as another (column). queries: number
    of classified images. image: the matrix as a data URI if there are too many classes for a table. pairs: the most
    frequent confusions, each (class, predicted class, share).
    """

    name: str
    queries: int
    classes: tuple[str, ...]
    shares: list[list[float]]
    image: str
    pairs: list[tuple[str, str, float]]


def confusion(name: str, store: Store, dataset: Dataset, seed: int) -> Confusion:
    """Classify validation images by 20-NN. Raises StoreError, or PipelineError for images without labels."""
    train, val = dataset.splits["train"], dataset.splits["val"]
    train_store, val_store = open_split(store, train), open_split(store, val)
    queries = sample_rows(val_store, MOST_QUERIES, seed)
    queries = queries[val.labels[queries] >= 0]
    if not queries.size or (train.labels[train_store.eligible()] < 0).any():
        raise PipelineError("images without labels have no confusion matrix")
    nearest = nearest_rows(train_store, unit_rows(val_store, queries), NEIGHBOURS)
    classes = val.classes
    counts = contingency(val.labels[queries], majority(train.labels[nearest]), len(classes), len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Confusion(
        name=name,
        queries=len(queries),
        classes=classes,
        shares=shares.tolist(),
        image="" if len(classes) <= MOST_TABLE_CLASSES else matrix_image(shares),
        pairs=worst_pairs(shares, classes),
    )


def worst_pairs(shares: NDArray[np.float64], classes: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """Return the most frequent confusions, without the diagonal."""
    errors = shares * ~np.eye(len(shares), dtype=bool)
    order = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [(classes[i], classes[j], float(errors[i, j])) for i, j in pairs if errors[i, j] > 0]


def matrix_image(shares: NDArray[np.float64]) -> str:
    """Return a PNG data URI with one pixel per cell: blue with the share as opacity, for light and dark pages."""
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = (74, 144, 217)
    pixels[..., 3] = np.rint(255 * np.sqrt(shares))
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
