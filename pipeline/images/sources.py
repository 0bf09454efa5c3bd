"""Sources of images: folders or parquet files behind one small interface, row -> original bytes."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.file_names import escape
from pipeline.images.folders import (
    Listing,
    describe_kinds,
    has_images,
    is_folder,
    kind_of,
    list_images,
    split_folders,
)
from pipeline.images.path_list import LISTS, open_list
from pipeline.images.table_columns import IMAGE
from pipeline.images.table_splits import saved_files, split_files
from pipeline.images.tables import NO_CHOICE, Choice, TableSource, open_tables
from pipeline.images.tar_shards import TarSource, open_tars, tar_files

NO_BYTES = hashlib.sha256().digest()
EXPECTED = (
    "expected train/ and val/ folders, class folders, a folder of images "
    "(.jpg, .png, .webp, .gif, .bmp, .tif, .ppm), parquet files named train, val or test, .tar shards, or a list of "
    "paths (.csv, .parquet)"
)
UNPACK = "put .tar files, as webdataset writes them, into a folder without other images"
HEIC = "HEIC images are read once the package pillow-heif is installed"


class Source(Protocol):
    """The images of one split. Picklable; a row is the same image in every process."""

    @property
    def names(self) -> Sequence[str]:
        """Relative POSIX paths, one per row, unique; bytes that are not UTF-8 are surrogate-escaped."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) index into `classes`, -1 for none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, the same for every split."""

    @property
    def place(self) -> dict[str, Any]:
        """Location of the rows below the data folder, for `reopen`."""

    def read(self, row: int) -> bytes:
        """Return the original bytes. Raises OSError when they cannot be read."""


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Image files below data/folder.

    passed_over, without_images: what else is there, as in `Listing`; empty if the folder was not listed.
    """

    data: Path
    folder: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    passed_over: dict[str, int] = field(default_factory=dict)
    without_images: tuple[str, ...] = ()

    @property
    def place(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def read(self, row: int) -> bytes:
        return (self.data / self.folder / self.names[row]).read_bytes()


@dataclass(frozen=True, kw_only=True)
class RecordedSource:
    """A dataset's images, each checked against the content hash that was recorded on packing."""

    source: Source
    sha256: NDArray[np.uint8]

    @property
    def names(self) -> Sequence[str]:
        return self.source.names

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.source.labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def place(self) -> dict[str, Any]:
        return self.source.place

    def read(self, row: int) -> bytes:
        """Return the packed bytes, empty if there were none. Raises PipelineError if they are missing or changed."""
        expected = self.sha256[row].tobytes()
        try:
            data = self.source.read(row)
        except OSError as error:
            if expected == NO_BYTES:
                return b""
            raise PipelineError(f"row {row}, {self.names[row]}, can no longer be read: {error}") from error
        if hashlib.sha256(data).digest() != expected:
            raise PipelineError(
                f"row {row}, {self.names[row]}, has changed since it was packed; "
                "restore it, or pack into a new folder"
            )
        return data


def reopen(
    data: Path,
    place: dict[str, Any],
    names: Sequence[str],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
) -> Source:
    """Return the source with this `place` below `data`, without listing the folder again."""
    if "tars" in place:
        return TarSource(data=data, files=tuple(place["tars"]), names=names, labels=labels, classes=classes)
    if "files" in place:
        return TableSource(
            data=data,
            files=tuple(place["files"]),
            names=names,
            labels=labels,
            classes=classes,
            column=place.get("column", IMAGE),
        )
    return FolderSource(data=data, folder=place["folder"], names=names, labels=labels, classes=classes)


def open_sources(data: Path, choice: Choice = NO_CHOICE) -> dict[str, Source]:
    """Return the images of each split, in an order that depends only on names. `data` may hold:

    - folders train/, val/ (or validation/) and test/, each with class folders or with images without classes;
    - class folders, or images without classes, which become the split `train`;
    - parquet files named train, val (or validation) or test, possibly in parts (train-00000-of-00002.parquet), here
      or in a folder data/;
    - what Hugging Face's `save_to_disk` wrote: a folder of arrow files for each split;
    - .tar shards as webdataset writes them, and no other images.

    It may also be a list of paths, see `path_list`.

    Folders are classes, with the images below them at any depth; images beside class folders have no label. Class
    names are sorted. Rows are sorted by relative path, by code point; rows of parquet files keep their order. Hidden
    files and folders, other files, and links to a parent folder are skipped. choice: what the user chose instead.

    Raises WrongUse when there are no images or the layout is ambiguous.
    """
    if data.is_file() and data.suffix.lower() in LISTS:
        return {**open_list(data, choice)}
    if not data.is_dir():
        raise WrongUse(f"there is no folder {data}; {EXPECTED}")
    try:
        if saved := saved_files(data, choice.val):
            return {**open_tables(data, saved, choice)}
        folders, files = _visible(data)
        if not files and "train" not in folders and "data" in folders:
            files = [f"data/{file}" for file in _visible(data / "data")[1]]
        if files and "train" not in folders:
            return {**open_tables(data, split_files(data, files, choice.val), choice)}
        if (tars := tar_files(data, choice.val)) and not has_images(data):
            if choice.image_column or choice.label_column:
                raise WrongUse(f"{data} holds .tar shards: --image-column and --label-column are for tables")
            return {**open_tars(data, tars)}
        return _open_folders(data, split_folders(data, folders, choice.val), choice)
    except OSError as error:
        raise WrongUse(f"cannot read {error.filename or data}: {error.strerror or error}") from error


def _visible(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders and of the parquet files in a folder, sorted."""
    with os.scandir(folder) as entries:
        visible = sorted(
            (entry.name, is_folder(entry)) for entry in entries if not entry.name.startswith(".")
        )
    folders = [name for name, is_dir in visible if is_dir]
    return folders, [name for name, is_dir in visible if not is_dir and kind_of(name) == ".parquet"]


def _open_folders(data: Path, splits: dict[str, str], choice: Choice) -> dict[str, Source]:
    if choice.image_column or choice.label_column:
        raise WrongUse(f"{data} holds image files: --image-column and --label-column are for parquet files")
    listings = {split: list_images(data / folder) for split, folder in splits.items()}
    for split, listing in listings.items():
        if not listing.images:
            raise WrongUse(_no_images(data / splits[split], listing))
    found = {name.split("/", 1)[0] for each in listings.values() for name in each.images if "/" in name}
    number = {name: index for index, name in enumerate(sorted(found))}
    classes = tuple(escape(name) for name in number)
    return {
        split: FolderSource(
            data=data,
            folder=splits[split],
            names=listing.images,
            labels=np.array(
                [number[name.split("/", 1)[0]] if "/" in name else -1 for name in listing.images], np.int64
            ),
            classes=classes,
            passed_over=listing.passed_over,
            without_images=listing.without_images,
        )
        for split, listing in listings.items()
    }


def _no_images(folder: Path, listing: Listing) -> str:
    found = f", but {describe_kinds(listing.passed_over)}" if listing.passed_over else ""
    return f"there are no images in {folder}{found}; {EXPECTED}{hint_for(listing.passed_over)}"


def hint_for(passed_over: Mapping[str, int]) -> str:
    """Return what to do about files of these kinds, "" if there is nothing to do."""
    hints = [UNPACK] if ".tar" in passed_over else []
    hints += [HEIC] if {".heic", ".heif"} & passed_over.keys() else []
    return "".join(f"; {hint}" for hint in hints)
