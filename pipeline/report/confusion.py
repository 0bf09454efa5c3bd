"""What a system takes for what: the confusion matrix of its nearest-neighbour classifier."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.reader import Store
from pipeline.errors import PipelineError
from pipeline.evaluate.cluster_alignment import contingency
from pipeline.evaluate.knn import majority
from pipeline.images.dataset import Dataset
from pipeline.report.rows import drawn, nearest_rows, split_of, unit_rows

ASKED = 5000  # validation images at most
VOTES = 20
TABLE = 20  # classes up to which the matrix is a table
PAIRS = 10


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """shares (classes, classes): of the images of a class (row) those taken for another (column), fractions.

    picture: the matrix as a data URI where a table would be too big. pairs: (class, taken for, share), the worst.
    """

    name: str
    asked: int
    classes: tuple[str, ...]
    shares: list[list[float]]
    picture: str
    pairs: list[tuple[str, str, float]]


def confusion(name: str, store: Store, dataset: Dataset, seed: int) -> Confusion:
    """20-NN predictions of validation images, by class. StoreError, or PipelineError without labels."""
    asked, images = dataset.splits["val"], dataset.splits["train"]
    near, queries = split_of(store, images), split_of(store, asked)
    rows = drawn(queries, ASKED, seed)
    rows = rows[asked.labels[rows] >= 0]
    if not rows.size or (images.labels[near.eligible()] < 0).any():
        raise PipelineError("images without labels have no confusion matrix")
    found = nearest_rows(near, unit_rows(queries, rows), VOTES)
    predicted = majority(images.labels[found])
    classes = asked.classes
    counts = contingency(asked.labels[rows], predicted, len(classes), len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Confusion(
        name=name,
        asked=len(rows),
        classes=classes,
        shares=shares.tolist(),
        picture="" if len(classes) <= TABLE else matrix_picture(shares),
        pairs=worst_pairs(shares, classes),
    )


def worst_pairs(shares: NDArray[np.float64], classes: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """The confusions that happen most, the diagonal left out."""
    errors = shares * ~np.eye(len(shares), dtype=bool)
    order = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [(classes[i], classes[j], float(errors[i, j])) for i, j in pairs if errors[i, j] > 0]


def matrix_picture(shares: NDArray[np.float64]) -> str:
    """A pixel a cell, blue of the share's opacity, so that it stands on light and on dark."""
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = (74, 144, 217)
    pixels[..., 3] = np.rint(255 * np.sqrt(shares))
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
