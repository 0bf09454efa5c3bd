"""Which files of tables are of which split: by their names, or as Hugging Face's `save_to_disk` records it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse, suggest
from pipeline.images.split_names import PARQUET, SPLITS, chosen_split, in_order

SAVED_SPLITS, SAVED_STATE = "dataset_dict.json", "state.json"


def split_files(data: Path, files: Sequence[str], val: str | None = None) -> dict[str, list[str]]:
    """Return the parquet files of each split, with all their parts. val: the split to take as val.

    Raises WrongUse for a file that names no split, and for missing parts.
    """
    splits: dict[str, list[str]] = {}
    for file in files:
        if not (match := PARQUET.fullmatch(file)):
            expected = "train.parquet or val-00000-of-00002.parquet"
            raise WrongUse(f"{data / file} names no split; expected names like {expected}")
        splits.setdefault(SPLITS[match["split"]], []).append(file)
    for split, parts in splits.items():
        counts = {int(match["parts"] or 1) for part in parts if (match := PARQUET.fullmatch(part))}
        if counts != {len(parts)}:
            wanted = " or ".join(map(str, sorted(counts)))
            raise WrongUse(f"{data}: expected {wanted} files of {split}, found {len(parts)}: {parts[0]} ...")
    if val is not None:
        if SPLITS.get(val) not in splits:
            raise WrongUse(f"--val-split {val}: {data} has no files of {val}{suggest(val, splits)}")
        splits["val"] = splits.pop(SPLITS[val])
    return in_order(splits)


def saved_files(data: Path, val: str | None = None) -> dict[str, list[str]] | None:
    """Return the arrow files of each split of what Hugging Face's `save_to_disk` wrote into a folder; None otherwise.

    val: the split to take as val. A dataset without splits is train. Raises WrongUse for splits of other names.
    """
    if (data / SAVED_SPLITS).is_file():
        folders = _json(data / SAVED_SPLITS).get("splits", [])
        found = {str(folder): _saved_parts(data / str(folder), f"{folder}/") for folder in folders}
    elif (data / SAVED_STATE).is_file():
        found = {"train": _saved_parts(data, "")}
    else:
        return None
    if val is not None and val not in found:
        raise WrongUse(f"--val-split {val}: {data} has no split of this name{suggest(val, found)}")
    splits: dict[str, list[str]] = {}
    for name, files in found.items():
        if split := chosen_split(name, val):
            splits[split] = files
    if "train" not in splits:
        raise WrongUse(f"{data} has the splits {', '.join(found)}; expected one called train")
    return in_order(splits)


def _saved_parts(folder: Path, prefix: str) -> list[str]:
    return [f"{prefix}{part['filename']}" for part in _json(folder / SAVED_STATE).get("_data_files", [])]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WrongUse(f"cannot read {path}, which Hugging Face's save_to_disk writes: {error}") from error
