"""Sources of images: folders or parquet files behind one small interface, row -> original bytes."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.parquet import ParquetSource, open_parquet

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"
)  # fmt: skip
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
PARQUET = re.compile(r"(?P<split>train|val|validation|test)(-\d+-of-(?P<parts>\d+)(-\w+)?)?\.parquet")
NO_BYTES = hashlib.sha256().digest()
EXPECTED = (
    "expected train/ and val/ folders, class folders, a folder of images "
    "(.jpg, .png, .webp, .gif, .bmp, .tif, .ppm) or parquet files named train, val or test"
)


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
    """Image files below data/folder."""

    data: Path
    folder: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

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
    if "files" in place:
        return ParquetSource(
            data=data, files=tuple(place["files"]), names=names, labels=labels, classes=classes
        )
    return FolderSource(data=data, folder=place["folder"], names=names, labels=labels, classes=classes)


def open_sources(data: Path) -> dict[str, Source]:
    """Return the images of each split, in an order that depends only on names. `data` may hold:

    - folders train/, val/ (or validation/) and test/, each with class folders or with images without classes;
    - class folders, or images without classes, which become the split `train`;
    - parquet files named train, val (or validation) or test, possibly in parts (train-00000-of-00002.parquet).

    Folders are classes, with the images below them at any depth, unless there are images beside these folders. Class
    names are sorted. Rows are sorted by relative path, by code point; rows of parquet files keep their order. Hidden
    files and folders, other files, and links to a parent folder are skipped.

    Raises WrongUse when there are no images or the layout is ambiguous.
    """
    if not data.is_dir():
        raise WrongUse(f"there is no folder {data}; {EXPECTED}")
    try:
        with os.scandir(data) as entries:
            visible = sorted((e.name, _is_folder(e)) for e in entries if not e.name.startswith("."))
        folders = [name for name, is_folder in visible if is_folder]
        files = [name for name, is_folder in visible if not is_folder and name.endswith(".parquet")]
        if files and "train" not in folders:
            return {**open_parquet(data, _split_files(data, files))}
        return _open_folders(data, _split_folders(data, folders))
    except OSError as error:
        raise WrongUse(f"cannot read {error.filename or data}: {error.strerror or error}") from error


def _split_folders(data: Path, folders: list[str]) -> dict[str, str]:
    """Return the folder of each split, "." for the data folder itself."""
    named = [folder for folder in folders if folder in SPLITS]
    splits = {SPLITS[folder]: folder for folder in named}
    if len(splits) < len(named):
        raise WrongUse(f"{data} has both val/ and validation/; keep one of them")
    others = [folder for folder in folders if folder not in SPLITS]
    if "train" not in splits and (others or not splits):
        return {"train": "."}
    if list(splits) == ["train"] and (beside := [f for f in others if any(_walk(str(data / f)))]):
        raise WrongUse(
            f"{data} has a folder train/ and images in {beside[0]}/ beside it: if train is a class, "
            "put all class folders into one folder train/; if it is a split, move the others away"
        )
    return splits


def _split_files(data: Path, files: list[str]) -> dict[str, list[str]]:
    """Return the parquet files of each split, with all their parts."""
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
    return {split: splits[split] for split in SPLITS.values() if split in splits}


def _open_folders(data: Path, splits: dict[str, str]) -> dict[str, Source]:
    names = {split: sorted(_walk(str(data / folder))) for split, folder in splits.items()}
    for split, folder in splits.items():
        if not names[split]:
            raise WrongUse(f"there are no images in {data / folder}; {EXPECTED}")
    labelled = {split: all("/" in name for name in names[split]) for split in splits}
    found = {name.split("/", 1)[0] for split in splits if labelled[split] for name in names[split]}
    number = {name: index for index, name in enumerate(sorted(found))}
    classes = tuple(escape(name) for name in number)
    return {
        split: FolderSource(
            data=data,
            folder=folder,
            names=names[split],
            labels=np.array(
                [number[name.split("/", 1)[0]] if labelled[split] else -1 for name in names[split]], np.int64
            ),
            classes=classes,
        )
        for split, folder in splits.items()
    }


def _walk(folder: str, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the relative paths of the images below a folder, in arbitrary order."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here})
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and _may_be_image(entry):
                yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # DirEntry.is_dir raises for a link to itself, os.path.isdir does not
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a broken link, whose row is then unreadable; a pipe is not, as reading it would hang."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def escape(name: str) -> str:
    r"""Return a file name as valid text: a backslash is doubled, a byte that is not UTF-8 becomes \xNN."""
    return name.replace("\\", r"\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescape(text: str) -> str:
    """Return the file name that `escape` was given."""
    return re.sub(
        r"\\(\\|x[0-9a-f]{2})", lambda m: "\\" if m[1] == "\\" else chr(0xDC00 + int(m[1][1:], 16)), text
    )
