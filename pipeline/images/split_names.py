"""Names of splits: which folders and parquet files are train, val and test."""

import re
from collections.abc import Iterable

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
SIMILAR = {**SPLITS, "training": "train", "valid": "val", "testing": "test"}  # in any letter case
PARQUET = re.compile(
    r"(.*/)?(?P<split>train|val|validation|test)(-\d+-of-(?P<parts>\d+)(-\w+)?)?(?i:\.parquet)"
)


def similar_split(name: str) -> str | None:
    """Return the split that a folder name stands for, in any letter case: Train, training, Valid; None for no split."""
    return SIMILAR.get(name.lower())


def similar_splits(folders: Iterable[str]) -> dict[str, list[str]]:
    """Return the folders whose names stand for a split, by split, in the order train, val, test."""
    found: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for folder in folders:
        if split := similar_split(folder):
            found[split].append(folder)
    return {split: names for split, names in found.items() if names}
