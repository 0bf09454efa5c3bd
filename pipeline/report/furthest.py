"""Fidelity of students to their teachers, and the images on which a student fell furthest from its teacher."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cache.reader import Store
from pipeline.evaluate.features import unit_rows
from pipeline.evaluate.fidelity import of_stores
from pipeline.images.dataset import Dataset
from pipeline.report.gallery import NEIGHBOURS, Neighbours, thumbnail
from pipeline.report.rows import nearest_rows, open_split

FURTHEST = 8  # images shown


@dataclass(frozen=True, kw_only=True)
class Furthest:
    """A student's mean fidelity on `images` validation images, and its neighbours and its teacher's of the worst.

    recall, divergence: see `pipeline.evaluate.fidelity`. alike: the share of images with at least half of the teacher's
    neighbours. lost: the share with none of them.
    """

    name: str
    images: int
    recall: float
    divergence: float
    alike: float
    lost: float
    worst: list[Neighbours]


def furthest(name: str, student: Store, teacher: Store, dataset: Dataset, seed: int) -> Furthest:
    """Compare a student with its teacher. Raises StoreError, or PipelineError as `thumbnail`."""
    train, val = dataset.splits["train"], dataset.splits["val"]
    stores = {"teacher": teacher, "student": student}
    for store in stores.values():
        open_split(store, train), open_split(store, val)
    found = of_stores(student, teacher, seed)
    # the fewest of the teacher's neighbours, and of these the largest divergence
    chosen = found.rows[np.lexsort((-found.divergence, found.recall))[:FURTHEST]]
    near = {
        side: nearest_rows(store.split("train"), unit_rows(store.split("val"), chosen), NEIGHBOURS)
        for side, store in stores.items()
    }
    return Furthest(
        name=name,
        images=len(found.rows),
        recall=float(found.recall.mean()),
        divergence=float(found.divergence.mean()),
        alike=float((found.recall >= 0.5).mean()),
        lost=float((found.recall == 0).mean()),
        worst=[
            Neighbours(
                query=thumbnail(val, row),
                found={side: [thumbnail(train, one) for one in rows[number]] for side, rows in near.items()},
            )
            for number, row in enumerate(chosen)
        ],
    )


def all_furthest(students: Mapping[str, tuple[Store, Store]], dataset: Dataset, seed: int) -> list[Furthest]:
    """Compare each student with its teacher. students: name to the stores of both."""
    return [furthest(name, *stores, dataset, seed) for name, stores in students.items()]
