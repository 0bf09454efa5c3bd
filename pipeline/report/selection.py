"""Selection of the stores that a page's figures show."""

from collections.abc import Sequence

from cache.reader import Store
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.report.systems import System, teacher_store

ID_DIGITS = 8
STUDENTS = 4  # shown at most


def require_splits(dataset: Dataset | None) -> Dataset:
    """Return the dataset. Raises PipelineError if it is None, or lacks a train or val split."""
    if dataset is None:
        raise PipelineError("no dataset was given; add --dataset for figures of its images")
    for split in ("train", "val"):
        if split not in dataset.splits:
            raise PipelineError(f"{dataset.path} has no {split} split; these figures need train and val")
    return dataset


def teacher_stores(systems: Sequence[System], dataset: Dataset) -> dict[str, Store]:
    """Return caches of this dataset by name: those among the systems, and those that runs were trained from."""
    found = {s.name: s.store for s in systems if s.role == "teacher" and s.store and is_of(s.store, dataset)}
    for run in systems:
        store = teacher_store(run, systems)
        if store and is_of(store, dataset) and all(store.id != other.id for other in found.values()):
            name = f"teacher {store.origin.get('name', store.teacher['architecture'])}"
            found[f"{name} ({store.id[:ID_DIGITS]})" if name in found else name] = store
    return found


def student_stores(systems: Sequence[System], dataset: Dataset) -> dict[str, Store]:
    """Return the first runs' embeddings of this dataset by name, one seed of each, distilled students first.

    Raises PipelineError if there are none.
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


def students_with_teachers(systems: Sequence[System], dataset: Dataset) -> dict[str, tuple[Store, Store]]:
    """Return the stores of `student_stores` that have a teacher's cache of both splits, each with that cache.

    Raises PipelineError if there are none.
    """
    found = {}
    for name, store in student_stores(systems, dataset).items():
        system = next(each for each in systems if each.name == name and each.store is store)
        teacher = teacher_store(system, systems)
        if teacher and is_of(teacher, dataset) and "val" in teacher.splits:
            found[name] = (store, teacher)
    if not found:
        raise PipelineError("no run here has its teacher's cache of train and val beside it")
    return found


def is_of(store: Store, dataset: Dataset) -> bool:
    """Whether a store's train split is of this dataset."""
    train = dataset.splits["train"]
    return "train" in store.splits and not train.difference_from(store.split("train").dataset)
