"""Labelled embeddings, the input of every evaluation of a store."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache.reader import Split, Store
from pipeline.errors import PipelineError

BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class LabeledFeatures:
    """Unit-length embeddings (n, D) float32, labels (n,) int64 in 0..classes-1, and the classes' names if known."""

    embedding: NDArray[np.float32]
    label: NDArray[np.int64]
    classes: int
    names: tuple[str, ...] = ()

    def where(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "LabeledFeatures":
        """Return the given rows; rows: numbers, or a mask (n,)."""
        return replace(self, embedding=self.embedding[rows], label=self.label[rows])


def load_features(store: Store, split: str) -> LabeledFeatures:
    """Load the centre-crop embeddings of a split's labelled rows, in row order; rows without an embedding are left out.

    Raises:
        StoreError: the store has no such split, or the split is incomplete.
        PipelineError: no row has a label, or no labelled row has an embedding.
    """
    part = store.split(split)
    part.require_complete()
    labelled = np.flatnonzero(part.label >= 0)
    if not labelled.size:
        raise PipelineError(
            f"split '{split}' of {store.path} has no labels; "
            "evaluation needs a dataset packed from class folders"
        )
    rows = np.intersect1d(part.eligible(), labelled, assume_unique=True)
    if not rows.size:
        raise PipelineError(
            f"none of the {labelled.size} labelled rows of split '{split}' of {store.path} has a usable "
            "embedding; see `cache info` for their status"
        )
    embedding = np.empty((rows.size, part.shape.dim), dtype=np.float32)
    for start in range(0, rows.size, BLOCK_ROWS):
        embedding[start : start + BLOCK_ROWS] = unit_rows(part, rows[start : start + BLOCK_ROWS])
    names = tuple(part.dataset["classes"])
    return LabeledFeatures(embedding, part.label[rows], len(names), names)


def unit_rows(split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return embeddings (n, D) float32, normalized again since float16 is off by up to 5e-4."""
    embedding = split.gather(rows).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding


def require_comparable(train: LabeledFeatures, val: LabeledFeatures) -> None:
    """Raise PipelineError if train and val differ in dim or number of classes."""
    if train.embedding.shape[1] != val.embedding.shape[1]:
        raise PipelineError(
            f"the train embeddings have {train.embedding.shape[1]} dimensions and the val embeddings "
            f"{val.embedding.shape[1]}; evaluate two splits of one store"
        )
    if train.classes != val.classes:
        raise PipelineError(
            f"the train split has {train.classes} classes and the val split {val.classes}; "
            "pack both splits from the same class folders"
        )
