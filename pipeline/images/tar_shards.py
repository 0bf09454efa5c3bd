"""Images in .tar shards as webdataset writes them: the files of one key are a sample, KEY.jpg and KEY.cls or .json."""

import json
import mmap
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import WrongUse, suggest
from pipeline.images.class_names import class_names
from pipeline.images.folders import SUFFIXES, kind_of
from pipeline.images.image_names import ImageNames
from pipeline.images.split_names import chosen_split, in_order, similar_split
from pipeline.images.table_columns import class_values, numbered

TAR = ".tar"
BLOCK = 512  # bytes of a tar's header, of which everything is a multiple
SPLIT_WORD = re.compile(
    r"(?<![a-z])(train|training|val|valid|validation|test|testing)(?![a-z])", re.IGNORECASE
)
SHARD_NAME = re.compile(r"^(.+?\.tar)/", re.IGNORECASE)
LABEL_KEYS = ("label", "cls", "class")
Members = dict[str, tuple[int, int]]  # name -> offset and size of the content


@dataclass(frozen=True, kw_only=True)
class TarSource:
    """The images in tar files below `data`. names: SHARD.tar/MEMBER."""

    data: Path
    files: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def place(self) -> dict[str, Any]:
        return {"tars": list(self.files)}

    def read(self, row: int) -> bytes:
        _, shard, member = SHARD_NAME.split(self.names[row], maxsplit=1)
        path = self.data / shard
        members = members_of(path, path.stat().st_mtime_ns)
        if member not in members:
            raise OSError(f"{path.name} has no {member} any more")
        offset, size = members[member]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def tar_files(data: Path, val: str | None = None) -> dict[str, list[str]]:
    """Return the .tar files of each split: by a word in their names, or in folders named like splits.

    Files without such a word are train. val: the split to take as val. Empty without .tar files.
    Raises WrongUse if some names have a split and others none, or val is not among them.
    """
    found: dict[str, list[str]] = {}
    shards = sorted(path.name for path in data.iterdir() if is_shard(path))
    for folder in sorted(path for path in data.iterdir() if path.is_dir() and similar_split(path.name)):
        shards += sorted(f"{folder.name}/{path.name}" for path in folder.iterdir() if is_shard(path))
    for shard in shards:
        words = SPLIT_WORD.findall(shard)
        found.setdefault(words[-1].lower() if words else "", []).append(shard)
    if "" in found and len(found) > 1:
        raise WrongUse(
            f"{data}: {found[''][0]} names no split, as {next(iter(found.values()))[0]} does; rename it"
        )
    if found and val is not None and val not in found:
        raise WrongUse(f"--val-split {val}: {data} has no .tar files of {val}{suggest(val, found)}")
    splits: dict[str, list[str]] = {}
    for word, files in found.items():
        if split := chosen_split(word or "train", val):
            splits.setdefault(split, []).extend(files)
    return in_order(splits)


def is_shard(path: Path) -> bool:
    """Whether a path is a visible .tar file."""
    return path.suffix.lower() == TAR and not path.name.startswith(".") and path.is_file()


def open_tars(data: Path, splits: dict[str, list[str]]) -> dict[str, TarSource]:
    """Return the images of each split's shards, in their order. Raises WrongUse for a shard that cannot be read."""
    rows = {split: [_rows(data, file) for file in files] for split, files in splits.items()}
    for split, parts in rows.items():
        if not any(names for names, _ in parts):
            raise WrongUse(f"the .tar files of {split} in {data} hold no images")
    columns = {
        split: [class_values(_column([label for _, labels in parts for label in labels]), f"{data}, {split}")]
        for split, parts in rows.items()
    }
    classes = class_names(data, [(column, ()) for (column,) in columns.values()])
    return {
        split: TarSource(
            data=data,
            files=tuple(splits[split]),
            names=ImageNames(name for names, _ in parts for name in names),
            labels=numbered(columns[split], classes),
            classes=classes,
        )
        for split, parts in rows.items()
    }


def _column(labels: Sequence[int | str | None]) -> pa.ChunkedArray:
    """Return labels as numbers, or as words if any is one."""
    if any(isinstance(label, str) for label in labels):
        return pa.chunked_array(
            [pa.array([None if label is None else str(label) for label in labels], pa.string())]
        )
    return pa.chunked_array([pa.array(labels, pa.int64())])


def _rows(data: Path, file: str) -> tuple[list[str], list[int | str | None]]:
    """Return the names and labels of a shard's images."""
    path = data / file
    try:
        members = members_of(path, path.stat().st_mtime_ns)
        labels: dict[str, int | str] = {}
        with path.open("rb") as shard:
            for name, (offset, size) in members.items():
                if kind_of(name) in (".cls", ".json"):
                    shard.seek(offset)
                    label = _label(kind_of(name), shard.read(size))
                    if not is_class(label):
                        raise ValueError(f"{name} has the label {label!r}")
                    if label is not None:
                        labels[key_of(name)] = label
    except (OSError, tarfile.TarError, ValueError) as error:
        raise WrongUse(f"cannot read {path}: {error}") from error
    images = [name for name in members if kind_of(name) in SUFFIXES]
    return [f"{file}/{name}" for name in images], [labels.get(key_of(name)) for name in images]


def key_of(name: str) -> str:
    """Return the key of a sample's file: its path up to the first dot of its name, as webdataset has it."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.split('.', 1)[0]}"


def is_class(label: int | str | None) -> bool:
    """Whether a label is a number of 64 bits, valid text, or none."""
    if isinstance(label, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in label)
    return label is None or -(2**63) <= label < 2**63


def _label(kind: str, content: bytes) -> int | str | None:
    """Return the label in a .cls or .json file, None if it has none. Raises ValueError for other content."""
    if kind == ".cls":
        text = content.decode("utf-8").strip()
        return int(text) if re.fullmatch(r"-?\d+", text) else text or None
    found = json.loads(content)
    values = (found.get(key) for key in LABEL_KEYS) if isinstance(found, dict) else ()
    return next(
        (value for value in values if isinstance(value, int | str) and not isinstance(value, bool)), None
    )


@lru_cache(maxsize=8)
def members_of(path: Path, changed: int) -> Members:
    """Return where the content of each regular file in a tar is. changed: its time, so that a new one is read anew.

    Raises OSError for a file that is cut short, tarfile.TarError for one that is no tar.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if not size:
            raise OSError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = list(_plain_members(content))
    if None in found:  # headers of long names, or of another kind: slower, and right for all
        with tarfile.open(path, "r:") as tar:
            found = [(each.name, each.offset_data, each.size) for each in tar if each.isreg()]
    members = {}
    for member in found:
        assert member is not None
        name, offset, length = member
        if offset + length > size:
            raise OSError(f"the file is cut short in {name}")
        members[name.removeprefix("./")] = offset, length
    return members


def _plain_members(content: mmap.mmap) -> Iterator[tuple[str, int, int] | None]:
    """Yield name, offset and size of each member whose header says all; None, and no more, at any other header."""
    place = 0
    while place + BLOCK <= len(content):
        header = content[place : place + BLOCK]
        if not header.strip(b"\0"):
            return
        if header[257:262] != b"ustar" or header[156:157] not in b"\x000" or header[124] & 0x80:
            yield None
            return
        # the checksum counts its own field as spaces
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != int(header[148:156].strip(b"\0 ") or b"0", 8):
            yield None
            return
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
        name = header[:100].split(b"\0", 1)[0]
        full = (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")
        yield full, place + BLOCK, size
        place += BLOCK + -(-size // BLOCK) * BLOCK
