"""The images that are shown, their embeddings by every teacher and student, and each image's nearest neighbours."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.browse.systems import Side, open_sides
from pipeline.errors import PipelineError
from pipeline.evaluate.features import unit_rows
from pipeline.evaluate.fidelity import common_rows
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.neighbours import knn, nearest_others
from pipeline.settings.browse import FEWEST_IMAGES, BrowseConfig

NEIGHBOURS = 12  # shown of each side

Rows = NDArray[np.int64]
Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Gallery:
    """n images of a split. rows: their rows (n,), ascending. sides: the teachers and students.

    Everything else counts the images from 0 to n - 1 in the order of their rows; this number is an image's index.
    """

    images: DatasetSplit
    rows: Rows
    sides: Sequence[Side]
    embeddings: Sequence[Embedding]  # of each side, unit rows (n, D)

    @cached_property
    def labels(self) -> Rows:
        """(n,) index into the split's classes, -1 for none."""
        return self.images.labels[self.rows]

    @cached_property
    def has_labels(self) -> bool:
        return bool((self.labels >= 0).any())

    @cached_property
    def token(self) -> str:
        """What tells these images from another gallery's: an index alone names another image there."""
        identity = json.dumps(self.images.identity, sort_keys=True).encode()
        return hashlib.sha256(identity + self.rows.tobytes()).hexdigest()[:16]

    def label(self, index: int) -> str:
        """Return the name of an image's class, "" for none."""
        label = int(self.labels[index])
        return self.images.classes[label] if label >= 0 else ""

    def name(self, index: int) -> str:
        """Return an image's path in its split's folder."""
        return self.images.names[self.rows[index]]

    def neighbours(self, index: int) -> list[list[tuple[int, float]]]:
        """Return, for each side, the nearest other images and their cosines, the nearest first."""
        found = []
        for embedding in self.embeddings:
            near = nearest_others(embedding, self.neighbours_shown, part=np.array([index]))[0]
            found.append(pairs(near, embedding[near] @ embedding[index]))
        return found

    def nearest(self, side: int, embedding: Embedding) -> list[tuple[int, float]]:
        """Return the images nearest to one embedding (D,) of a side, and their cosines."""
        score, index = knn(self.embeddings[side], embedding[None], self.neighbours_shown)
        return pairs(index[0], score[0])

    @property
    def neighbours_shown(self) -> int:
        return min(NEIGHBOURS, len(self.rows) - 1)


def pairs(index: Rows, score: Embedding) -> list[tuple[int, float]]:
    return [(int(one), round(float(cosine), 4)) for one, cosine in zip(index, score, strict=True)]


def open_gallery(config: BrowseConfig) -> Gallery:
    """Open the dataset and the targets, and read the embeddings of the images to show.

    Raises WrongUse for an unknown dataset or split, images that are gone, and as `open_sides`; PipelineError where
    too few images have an embedding on every side.
    """
    dataset = open_dataset(config.dataset)
    images = dataset.split(config.split)
    _ = images.source  # refused here rather than at the first thumbnail
    sides = open_sides(config, dataset)
    splits = [side.store.split(config.split) for side in sides]
    rows = common_rows(splits, config.limit, np.random.default_rng(config.seed))
    if len(rows) < FEWEST_IMAGES:
        raise PipelineError(
            f"only {len(rows)} images of the split '{config.split}' have an embedding in every target, "
            f"and a map needs {FEWEST_IMAGES}: leave a target out, or look at another --split"
        )
    return Gallery(images, rows, sides, [unit_rows(split, rows) for split in splits])
