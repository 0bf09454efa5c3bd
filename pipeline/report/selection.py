"""Which stores a page shows in pictures, and of which images."""

from collections.abc import Sequence

from cache.identity import identity_difference
from cache.reader import Store
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.report.systems import System, teacher_store

STUDENTS = 4  # shown at most


def whole(dataset: Dataset | None) -> Dataset:
    """The dataset with train and val. PipelineError where none was named or a split is missing."""
    if dataset is None:
        raise PipelineError("no dataset was named: --dataset brings the pictures in")
    for split in ("train", "val"):
        if split not in dataset.splits:
            raise PipelineError(f"{dataset.path} has no {split} split: the pictures need train and val")
    return dataset


def teachers(systems: Sequence[System], dataset: Dataset) -> dict[str, Store]:
    """By name: the caches of this dataset among the systems, and those that the runs learnt from."""
    found = {s.name: s.store for s in systems if s.role == "teacher" and s.store and is_of(s.store, dataset)}
    for run in systems:
        store = teacher_store(run, systems)
        if store and is_of(store, dataset) and all(store.id != other.id for other in found.values()):
            found[f"teacher {store.origin.get('name', store.teacher['architecture'])}"] = store
    return found


def students(systems: Sequence[System], dataset: Dataset) -> dict[str, Store]:
    """By name: the embeddings of this dataset of the first runs, one seed of each; what learnt from a teacher first.

    Raises PipelineError where there is none.
    """
    found: dict[str, Store] = {}
    for system in sorted(systems, key=lambda system: system.role != "student"):
        if system.record and system.store and is_of(system.store, dataset) and len(found) < STUDENTS:
            found.setdefault(system.name, system.store)
    if not found:
        raise PipelineError(
            "no run here has embeddings of this dataset: run `python cli.py eval` on it first"
        )
    return found


def is_of(store: Store, dataset: Dataset) -> bool:
    """Whether a store's training rows are this dataset's."""
    identity = dataset.splits["train"].identity
    return "train" in store.splits and not identity_difference(identity, store.split("train").dataset)
