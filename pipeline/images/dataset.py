"""Reading a dataset folder, as `pack` writes it.

A dataset folder holds SPLIT.beton (sample i is row i) and SPLIT.parquet (one row per image) for each split, and
dataset.json. Both describe files by the text that `file_names.escape` returns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache.identity import identity_difference
from pipeline.errors import PipelineError, WrongUse, first_line, suggest
from pipeline.images.dataset_json import DESCRIPTION, damaged_files, read_description
from pipeline.images.file_names import unescape
from pipeline.images.image_names import ImageNames
from pipeline.images.sources import RecordedSource, Source, reopen
from pipeline.images.split_table import NEEDED_COLUMNS, content_hashes
from pipeline.images.table_files import read_columns, read_schema


@dataclass(frozen=True, kw_only=True)
class DatasetSplit:
    """One split of a dataset, with N rows. Its columns are read when first used.

    formerly: its identities before `pack --relabel`, the oldest first; they are of the same images in the same order.
    """

    name: str
    rows: int
    classes: tuple[str, ...]
    identity: dict[str, Any]
    folder: Path
    data: Path
    place: dict[str, Any]
    formerly: tuple[dict[str, Any], ...] = ()

    @property
    def beton(self) -> Path:
        return self.folder / f"{self.name}.beton"

    @property
    def identities(self) -> tuple[dict[str, Any], ...]:
        """The present identity, then the former ones."""
        return (self.identity, *self.formerly)

    @property
    def packed_identity(self) -> dict[str, Any]:
        """The identity that the split was first packed with; it stays the same when labels are mended."""
        return self.formerly[0] if self.formerly else self.identity

    def difference_from(self, identity: Mapping[str, Any]) -> list[str]:
        """Return how an identity that a store or a run recorded differs from this split; [] for the same images."""
        return [] if identity in self.identities else identity_difference(self.identity, identity)

    @cached_property
    def names(self) -> ImageNames:
        """N paths of the images, relative to the split's folder."""
        return ImageNames(unescape(path.as_py()) for path in self._columns("path")["path"])

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
        """(N,) perceptual hashes, 0 for unreadable images."""
        return self._columns("thumb")["thumb"].to_numpy()

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) width and height of the original images in px, 0 for unreadable images."""
        table = self._columns("width", "height")
        return np.stack([table[side].to_numpy() for side in ("width", "height")], axis=1)

    @cached_property
    def source(self) -> Source:
        """The original images. Raises WrongUse when they are no longer where they were packed from."""
        parts = self.place.get("files") or self.place.get("tars") or [self.place["folder"]]
        if not all((self.data / part).exists() for part in parts):
            raise WrongUse(
                f"the images of {self.folder} were in {self.data} and are no longer there; if they have moved, "
                f"run `python cli.py pack NEW_FOLDER {self.folder}`, which checks that they are the same"
            )
        source = reopen(self.data, self.place, self.names, self.labels, self.classes)
        return RecordedSource(source=source, sha256=content_hashes(self._columns("sha256")))

    def _columns(self, *names: str) -> pa.Table:
        """Read these columns of the table. Raises PipelineError when it is not the one that `pack` wrote."""
        file = self.folder / f"{self.name}.parquet"
        again = f"write it again with `python cli.py pack DATA {self.folder}`"
        try:
            found = set(read_schema(file).names)
            table = None if NEEDED_COLUMNS - found else read_columns(file, names)
        except (OSError, pa.ArrowException) as error:
            raise PipelineError(f"{file} is damaged ({first_line(error)}); {again}") from error
        if table is None or len(table) != self.rows:
            raise PipelineError(f"{file} is not the table of {self.rows} rows that was written; {again}")
        return table

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that `pack` wrote. data: the folder of the original images."""

    path: Path
    data: Path
    splits: dict[str, DatasetSplit]

    def split(self, name: str) -> DatasetSplit:
        """Return a split by name. Raises WrongUse when the dataset has no such split."""
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise WrongUse(f"{self.path} has no split {name!r}; it has {known}{suggest(name, self.splits)}")
        return self.splits[name]


def open_dataset(path: Path, data: Path | None = None) -> Dataset:
    """Open the dataset in folder `path`; data: where its images are now, if they have moved.

    Raises WrongUse when there is no complete dataset of this format.
    """
    description = read_description(path)
    if description is None:
        if not path.is_dir():
            raise WrongUse(f"there is no dataset {path}; write it with `python cli.py pack DATA {path}`")
        if any(path.glob("*.beton")) or any(path.glob(".*.tmp")) or any(path.glob("*.parquet")):
            raise WrongUse(f"{path} is half-written; resume it with `python cli.py pack DATA {path}`")
        raise WrongUse(
            f"{path} is not a dataset (no {DESCRIPTION}); `python cli.py pack {path} OUT` writes one"
        )
    for file, fault in damaged_files(path, description).items():
        raise WrongUse(f"{file} {fault}; write it again with `python cli.py pack DATA {path}`")
    data = data or Path(unescape(description["data"]))
    return Dataset(
        path=path,
        data=data,
        splits={
            split: DatasetSplit(
                name=split,
                rows=found["rows"],
                classes=tuple(found["classes"]),
                identity=found["identity"],
                folder=path,
                data=data,
                place=found["place"],
                formerly=tuple(found.get("formerly", ())),
            )
            for split, found in description["splits"].items()
        },
    )
