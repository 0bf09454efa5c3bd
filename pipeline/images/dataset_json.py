"""dataset.json, the description of a dataset folder: written last, so that a folder without it is not a dataset."""

import json
from pathlib import Path
from typing import Any

from cache.durable import write_file
from pipeline.errors import WrongUse

FORMAT = 1
DESCRIPTION = "dataset.json"
SPLIT_FIELDS = {"rows": int, "classes": list, "identity": dict, "place": dict, "bytes": dict}


def write_description(path: Path, data: str, settings: dict[str, Any], splits: dict[str, Any]) -> None:
    """Write dataset.json into the folder `path`; data: the folder of images, as `file_names.escape` returns it."""
    description = {"format": FORMAT, "data": data, "settings": settings, "splits": splits}
    text = json.dumps(description, ensure_ascii=False, indent=2) + "\n"
    write_file(path / DESCRIPTION, text.encode())


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the content of dataset.json, or None if there is none. Raises WrongUse if it cannot be used."""
    file = path / DESCRIPTION
    try:
        description = json.loads(file.read_text("utf-8"))
        found = description["format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"cannot read {file}: {error}") from error
    if found != FORMAT:
        raise WrongUse(f"{file}: expected format {FORMAT}, found {found}; pack again into another folder")
    if not _is_complete(description):
        raise WrongUse(f"{file} is not as `pack` wrote it; remove it, and pack again into {path}")
    return description


def _is_complete(description: dict[str, Any]) -> bool:
    """Whether dataset.json has every field that opening the dataset needs."""
    splits = description.get("splits")
    return (
        isinstance(description.get("data"), str)
        and isinstance(description.get("settings"), dict)
        and isinstance(splits, dict)
        and bool(splits)
        and all(
            isinstance(split, dict)
            and all(isinstance(split.get(key), kind) for key, kind in SPLIT_FIELDS.items())
            and {"beton", "parquet"} <= split["bytes"].keys()
            for split in splits.values()
        )
    )


def damaged_files(path: Path, description: dict[str, Any]) -> dict[Path, str]:
    """Return the files that are missing or have another size than when they were written, with the fault."""
    faults = {}
    for name, split in description["splits"].items():
        for suffix, expected in split["bytes"].items():
            file = path / f"{name}.{suffix}"
            found = file.stat().st_size if file.exists() else None
            if found != expected:
                faults[file] = "is missing" if found is None else f"has {found} bytes, expected {expected}"
    return faults
