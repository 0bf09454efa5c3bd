"""Image folders: which folder is which split, and which files below it are images."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import WrongUse, suggest
from pipeline.images.image_names import ImageNames
from pipeline.images.split_names import SPLITS, chosen_split, similar_split

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
    ".avif", *((".heic", ".heif") if find_spec("pillow_heif") else ()),
)  # fmt: skip
NO_EXTENSION = "without extension"
KINDS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files below a folder. images: relative paths, sorted by code point.

    passed_over: the number of other files of each kind, which is their extension. without_images: the folders directly
    below that hold files but no image.
    """

    images: Sequence[str]
    passed_over: dict[str, int] = field(default_factory=dict)
    without_images: tuple[str, ...] = ()


def list_images(folder: Path) -> Listing:
    """List the images below a folder. Hidden files and folders and links to a parent folder are skipped."""
    images: list[str] = []
    others: list[str] = []
    for name, is_image in _walk(str(folder)):
        (images if is_image else others).append(name)
    with_images = {name.partition("/")[0] for name in images if "/" in name}
    with_others = {name.partition("/")[0] for name in others if "/" in name}
    return Listing(
        images=ImageNames(sorted(images)),
        passed_over=dict(Counter(kind_of(name) for name in others).most_common()),
        without_images=tuple(sorted(with_others - with_images)),
    )


def kind_of(name: str) -> str:
    """Return a file's extension in lower case, or NO_EXTENSION."""
    return os.path.splitext(name)[1].lower() or NO_EXTENSION


def describe_kinds(passed_over: dict[str, int]) -> str:
    """Return counts of files by kind as text, the most frequent first: "12 .heic, 3 without extension"."""
    shown = [f"{count:,} {kind}" for kind, count in list(passed_over.items())[:KINDS_SHOWN]]
    rest = sum(list(passed_over.values())[KINDS_SHOWN:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def split_folders(data: Path, folders: Sequence[str], val: str | None = None) -> dict[str, str]:
    """Return the folder of each split, "." for the data folder itself.

    folders: the visible folders in `data`. val: the folder to take as val. Without train/, folders like Train/ and
    Validation/ are the splits if there are no other folders of images.

    Raises WrongUse when the layout is ambiguous.
    """
    if val is not None and val not in folders:
        raise WrongUse(f"--val-split {val}: {data} has no folder {val}/{suggest(val, folders)}")
    known = [folder for folder in folders if folder in SPLITS or folder == val]
    named = known if "train" in known else _similar(data, folders, known)
    splits = _by_split(data, named, val)
    others = [folder for folder in folders if folder not in named]
    if "train" not in splits and (others or not splits):
        if val is not None:
            raise WrongUse(
                f"--val-split {val}: {data} has no train/ beside it; name the training folder train"
            )
        return {"train": "."}
    if list(splits) == ["train"]:
        beside = [folder for folder in others if has_images(data / folder)]
        splits |= _by_split(data, [folder for folder in beside if similar_split(folder) == "val"], val)
        beside = [folder for folder in beside if folder not in splits.values()]
        if beside and list(splits) == ["train"]:
            raise WrongUse(
                f"{data} has a folder train/ and images in {beside[0]}/ beside it: if train is a class, "
                "put all class folders into one folder train/; if it is a split, move the others away"
            )
    return splits


def _similar(data: Path, folders: Sequence[str], known: list[str]) -> list[str]:
    """Return the folders whose names are like those of splits if nothing else holds images, else those of `known`."""
    if not any(similar_split(folder) == "train" for folder in folders):
        return known
    others = [folder for folder in folders if not similar_split(folder) and folder not in known]
    is_clear = not any(has_images(data / folder) for folder in others)
    return [folder for folder in folders if folder not in others] if is_clear else known


def _by_split(data: Path, folders: Sequence[str], val: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in folders:
        if (split := chosen_split(folder, val)) is None:
            continue
        if split in found:
            raise WrongUse(f"{data} has both {found[split]}/ and {folder}/; keep one of them")
        found[split] = folder
    return found


def has_images(folder: Path) -> bool:
    """Whether there is any image below a folder."""
    return any(is_image for _, is_image in _walk(str(folder)))


def _walk(
    folder: str, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, bool]]:
    """Yield the relative paths of the files below a folder, in arbitrary order, and whether each is an image."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here})
            else:
                yield prefix + entry.name, kind_of(entry.name) in SUFFIXES and _may_be_image(entry)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    # DirEntry.is_dir raises for a link to itself, os.path.isdir does not
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a broken link, whose row is then unreadable; a pipe is not, as reading it would hang."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()
