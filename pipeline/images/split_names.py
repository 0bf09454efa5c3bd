"""Names of splits: which folders and parquet files are train, val and test."""

import re
from typing import TypeVar

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
SIMILAR = {**SPLITS, "training": "train", "valid": "val", "testing": "test"}  # in any letter case
PARQUET = re.compile(
    r"(.*/)?(?P<split>train|val|validation|test)(-\d+-of-(?P<parts>\d+)(-\w+)?)?(?i:\.parquet)"
)
Content = TypeVar("Content")


def similar_split(name: str) -> str | None:
    """Return the split that a folder name stands for, in any letter case: Train, training, Valid; None for no split."""
    return SIMILAR.get(name.lower())


def chosen_split(name: str, val: str | None) -> str | None:
    """Return the split that a name stands for, val for `val` itself; None for no split, and for what `val` replaces."""
    if name == val:
        return "val"
    split = similar_split(name)
    return None if split == "val" and val is not None else split


def in_order(splits: dict[str, Content]) -> dict[str, Content]:
    """Return the content of each split in the order train, val, test."""
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}
