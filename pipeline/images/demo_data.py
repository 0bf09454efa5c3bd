"""The demo's images: clip art from openclipart.org as an image folder of train/CLASS and val/CLASS."""

import hashlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import WrongUse
from pipeline.images.clip_art import Drawing, clip_art_folder, drawings_below, read_drawing
from pipeline.images.scan import each_row
from pipeline.images.sources import FolderSource
from pipeline.runtime.outputs import require_writable_folder

# A class is a folder at the top of the package. These hold drawings of anything (icons, "unsorted"), or so many of one
# series that they would outnumber their class (playing cards, flags): the student learns from them without a label.
WITHOUT_LABEL = (
    "buttons/", "computer/", "logos/", "shapes/", "special/", "unsorted/",
    "recreation/games/", "signs_and_symbols/flags/",
)  # fmt: skip
LEFT_OUT = (
    "shapes/stars/",  # 1,378 drawings made by a program
    # "Linked Image Not Found" is written across these in the package
    "animals/birds/duck_yellow_ii_kurt_cagl_.png",
    "animals/birds/penguin/tux_didier_fabert_01.png",
    "people/stylized_yoga_person_ger_",
)
VAL_SHARE = 4  # one labelled drawing in four
RECORD = "demo.json"  # the requested counts, in the written folder


def demo_data(out: Path, *, train: int | None = None, val: int | None = None) -> Path:
    """Write OUT/train/CLASS/NAME.png and OUT/val/CLASS/NAME.png, drawings of at most 256 px on white; returns OUT.

    Drawings without a label are in OUT/train itself. Identical drawings are written once, and all drawings of a series
    (numbered, or recolored) go to one split. train, val: number of images, balanced over classes, those without a label
    being one more; None: all. An existing folder with the same counts is left as it is.

    Raises WrongUse if OUT exists with other content or cannot be written, or there are fewer images; PipelineError if
    the package is missing and cannot be downloaded.
    """
    wanted = {"train": train, "val": val}
    for split, count in wanted.items():
        if count is not None and count < 1:
            raise WrongUse(f"{split}: expected 1 image or more, found {count}")
    if out.exists():
        _require_same(out, wanted)
        return out
    require_writable_folder(out)
    drawings = distinct_drawings(clip_art_folder())
    splits = split_by_series({path: drawing.thumb for path, drawing in drawings.items()})
    chosen = {split: _balanced(split, paths, wanted[split]) for split, paths in splits.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for split, paths in chosen.items():
            for path in paths:
                folder = partial / split / class_of(path)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / path.replace("/", "-")).write_bytes(drawings[path].png)
        (partial / RECORD).write_text(json.dumps(wanted))
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def class_of(path: str) -> str:
    """Return the class of a drawing from its path in the package; "" for none."""
    return "" if path.startswith(WITHOUT_LABEL) else path.partition("/")[0]


def distinct_drawings(folder: Path) -> dict[str, Drawing]:
    """Return path in the package -> reduced drawing; of identical drawings only the first by path."""
    paths = [path for path in drawings_below(folder) if not path.startswith(LEFT_OUT)]
    source = FolderSource(
        data=folder, folder=".", names=paths, labels=np.full(len(paths), -1, np.int64), classes=()
    )
    found = each_row(read_drawing, source, workers=len(os.sched_getaffinity(0)), title="demo")
    drawings: dict[str, Drawing] = {}
    seen: set[bytes] = set()
    for path, drawing in zip(paths, found, strict=True):
        if drawing and drawing.png not in seen:
            seen.add(drawing.png)
            drawings[path] = drawing
    return drawings


def split_by_series(thumbs: Mapping[str, int]) -> dict[str, list[str]]:
    """Return split -> paths. thumbs: path -> perceptual hash.

    About a quarter of each class is val. Drawings of a class are a series if their names differ only in numbers or
    their hashes are equal; a series goes to one split as a whole, in the order of the sha256 of its first name.
    Drawings without a label are in train, unless their hash is that of one in val.
    """
    splits: dict[str, list[str]] = {"train": [], "val": []}
    classes = defaultdict(list)
    for path in sorted(thumbs):
        classes[class_of(path)].append(path)
    unlabelled = classes.pop("", [])
    for paths in classes.values():
        left = len(paths) // VAL_SHARE
        for series in sorted(joined((path, {_stem(path), thumbs[path]}) for path in paths), key=_drawn):
            if len(series) <= left:
                splits["val"] += series
                left -= len(series)
            else:
                splits["train"] += series
    in_val = {thumbs[path] for path in splits["val"]}
    splits["train"] += [path for path in unlabelled if thumbs[path] not in in_val]
    return {split: sorted(paths) for split, paths in splits.items()}


def joined(keyed: Iterable[tuple[str, set[object]]]) -> list[list[str]]:
    """Group paths that share a key, directly or through other paths."""
    groups: list[tuple[list[str], set[object]]] = []
    for path, keys in keyed:
        near = [group for group in groups if group[1] & keys]
        groups = [group for group in groups if group not in near]
        paths = sorted([path, *(name for group in near for name in group[0])])
        groups.append((paths, keys.union(*(group[1] for group in near))))
    return [paths for paths, _ in groups]


def _stem(path: str) -> str:
    """Return a drawing's name without digits, separators and the suffix of a revision."""
    return re.sub(r"_r$|[\d_. -]", "", path.rpartition("/")[2].removesuffix(".png").lower())


def _drawn(series: Sequence[str]) -> bytes:
    return hashlib.sha256(series[0].encode()).digest()


def _balanced(split: str, paths: Sequence[str], count: int | None) -> list[str]:
    """Return `count` paths, sorted, as many of each class as of any other or one more; None: all."""
    if count is None:
        return list(paths)
    if count > len(paths):
        raise WrongUse(f"{split}: expected 1 to {len(paths)} images, found {count}")
    turns: dict[str, int] = defaultdict(int)
    in_turn = []
    for path in paths:
        in_turn.append((turns[class_of(path)], path))
        turns[class_of(path)] += 1
    return sorted(path for _, path in sorted(in_turn)[:count])


def _require_same(out: Path, wanted: Mapping[str, int | None]) -> None:
    try:
        found = json.loads((out / RECORD).read_text())
        held = _in_words(found)
    except (OSError, ValueError, KeyError, TypeError):
        raise WrongUse(f"{out} exists and is not what demo-data wrote; choose another folder") from None
    if found != wanted:
        raise WrongUse(
            f"{out} exists and holds other images: expected {_in_words(wanted)}, found {held}; choose another folder"
        )


def _in_words(counts: Mapping[str, int | None]) -> str:
    return ", ".join(f"{counts[split] or 'all'} in {split}/" for split in ("train", "val"))
