"""Images -> dataset folder: ordered rows, identity, one .beton a split; and its reader.

A dataset folder holds for each split SPLIT.beton (sample i is row i) and SPLIT.parquet (what is known of each
row), and dataset.json, which is written last: a folder without it is no dataset. In these two, names of files
are text as `sources.escape` gives it.
"""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.images.pack_split import (
    hashes_of,
)
from pipeline.images.sources import RecordedSource, Source, reopen, unescape

FORMAT = 1
DESCRIPTION = "dataset.json"
# what dataset.json tells of each split
KINDS = {"rows": int, "classes": list, "identity": dict, "place": dict, "bytes": dict}
COLUMNS = {"path", "label", "sha256", "readable", "thumb"}


@dataclass(frozen=True, kw_only=True)
class DatasetSplit:
    """One split of a dataset. What is known of its N rows is read when first asked for."""

    name: str
    rows: int
    classes: tuple[str, ...]
    identity: dict[str, Any]
    folder: Path
    data: Path
    place: dict[str, Any]

    @property
    def beton(self) -> Path:
        return self.folder / f"{self.name}.beton"

    @cached_property
    def names(self) -> list[str]:
        """Paths of the images, relative to the split's folder."""
        return [unescape(path) for path in self._columns("path")["path"].to_pylist()]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) index into classes, -1 for none."""
        return self._columns("label")["label"].to_numpy()

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """(N,) False where the image could not be decoded."""
        return self._columns("readable")["readable"].to_numpy()

    @cached_property
    def thumbs(self) -> NDArray[np.uint64]:
        """(N,) perceptual hashes, 0 for the unreadable."""
        return self._columns("thumb")["thumb"].to_numpy()

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) width and height of the original images in px, 0 for the unreadable."""
        table = self._columns("width", "height")
        return np.stack([table[side].to_numpy() for side in ("width", "height")], axis=1)

    @cached_property
    def source(self) -> Source:
        """The original images. Raises WrongUse when they are no longer where they were."""
        parts = self.place.get("files") or [self.place["folder"]]
        if not all((self.data / part).exists() for part in parts):
            raise WrongUse(
                f"the images of {self.folder} were in {self.data} and are there no more; if they have moved, "
                f"run `python cli.py pack NEW_FOLDER {self.folder}`, which checks that they are the same"
            )
        source = reopen(self.data, self.place, self.names, self.labels, self.classes)
        return RecordedSource(source=source, sha256=hashes_of(self._columns("sha256")))

    def _columns(self, *names: str) -> pa.Table:
        """These columns of the table; paths and hashes, the longest, are read by those alone who ask for them."""
        file = self.folder / f"{self.name}.parquet"
        again = f"write it again with `python cli.py pack DATA {self.folder}`"
        try:
            found = set(pq.read_schema(file).names)
            table = None if COLUMNS - found else pq.read_table(file, columns=list(names))
        except (OSError, pa.ArrowException) as error:
            raise PipelineError(f"{file} is damaged ({str(error).splitlines()[0]}); {again}") from error
        if table is None or len(table) != self.rows:
            raise PipelineError(f"{file} is not the table of {self.rows} rows that was written; {again}")
        return table

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What `pack` wrote. `data` is where its images were, or are by the caller's word."""

    path: Path
    data: Path
    splits: dict[str, DatasetSplit]

    def split(self, name: str) -> DatasetSplit:
        """A split by name. Raises WrongUse when the dataset has none of that name."""
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise WrongUse(f"{self.path} has no split {name!r}; it has {known}{suggest(name, self.splits)}")
        return self.splits[name]


def open_dataset(path: Path, data: Path | None = None) -> Dataset:
    """Open the dataset in folder `path`; `data` is where its images are now, should they have moved.

    Raises WrongUse when there is no whole dataset of this format.
    """
    description = read_description(path)
    if description is None:
        if not path.is_dir():
            raise WrongUse(f"there is no dataset {path}; write it with `python cli.py pack DATA {path}`")
        if any(path.glob("*.beton")) or any(path.glob(".*.tmp")) or any(path.glob("*.parquet")):
            raise WrongUse(f"{path} is half-written; go on with `python cli.py pack DATA {path}`")
        raise WrongUse(f"{path} is no dataset (no {DESCRIPTION}); `python cli.py pack {path} OUT` writes one")
    for file, fault in damaged_files(path, description).items():
        raise WrongUse(f"{file} {fault}; write it again with `python cli.py pack DATA {path}`")
    data = data or Path(unescape(description["data"]))
    return Dataset(
        path=path,
        data=data,
        splits={
            split: DatasetSplit(
                name=split,
                rows=known["rows"],
                classes=tuple(known["classes"]),
                identity=known["identity"],
                folder=path,
                data=data,
                place=known["place"],
            )
            for split, known in description["splits"].items()
        },
    )


def read_description(path: Path) -> dict[str, Any] | None:
    """dataset.json, None if there is none."""
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
    if not _is_described(description):
        raise WrongUse(f"{file} is not as `pack` wrote it; remove it, and pack again into {path}")
    return description


def _is_described(description: dict[str, Any]) -> bool:
    """Whether dataset.json tells all that a dataset is opened by."""
    splits = description.get("splits")
    return (
        isinstance(description.get("data"), str)
        and isinstance(description.get("settings"), dict)
        and isinstance(splits, dict)
        and bool(splits)
        and all(
            isinstance(known, dict)
            and all(isinstance(known.get(key), kind) for key, kind in KINDS.items())
            and {"beton", "parquet"} <= known["bytes"].keys()
            for known in splits.values()
        )
    )


def damaged_files(path: Path, description: dict[str, Any]) -> dict[Path, str]:
    """The files that are missing or not of the size they were written with."""
    faults = {}
    for split, known in description["splits"].items():
        for suffix, expected in known["bytes"].items():
            file = path / f"{split}.{suffix}"
            found = file.stat().st_size if file.exists() else None
            if found != expected:
                faults[file] = "is missing" if found is None else f"has {found} bytes, expected {expected}"
    return faults
