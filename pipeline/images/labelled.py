"""Whether a dataset can be evaluated with labels."""

import numpy as np
from numpy.typing import NDArray

from pipeline.images.dataset import Dataset


def label_problem(dataset: Dataset, rows: NDArray[np.integer] | None = None) -> str | None:
    """Return why train and val cannot be compared by their labels; None if they can.

    rows: those of train that are used. Default: the readable ones.
    """
    for name in ("train", "val"):
        if name not in dataset.splits:
            return f"{dataset.path} has no split '{name}'"
    train, val = dataset.splits["train"], dataset.splits["val"]
    used = {
        "train": np.flatnonzero(train.readable) if rows is None else rows,
        "val": np.flatnonzero(val.readable),
    }
    for split in (train, val):
        if not (split.labels[used[split.name]] >= 0).any():
            return f"the split '{split.name}' of {dataset.path} has no labelled image"
    return f"their classes differ in {dataset.path}" if train.classes != val.classes else None
