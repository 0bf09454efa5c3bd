"""Notes on images before they are packed: labels that are missing or odd, and files that were passed over."""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.images.folders import describe_kinds, has_images, kind_of
from pipeline.images.sources import FolderSource, Source, hint_for
from pipeline.images.split_names import similar_split
from pipeline.images.table_columns import IMAGE, LABEL
from pipeline.images.tables import TableSource

NAMES_SHOWN = 5


def source_notes(data: Path, sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield one sentence about everything in a folder of images that may not be as the user expects."""
    for split, source in sources.items():
        if isinstance(source, FolderSource):
            yield from _folder_notes(split, source)
        elif isinstance(source, TableSource):
            yield from _column_notes(split, source)
    if all(isinstance(source, FolderSource) for source in sources.values()):
        yield from _folders_left_out(data, sources)
    yield from _label_notes(sources)
    if "val" not in sources and "test" in sources:
        yield "there is no val split, which `eval` needs: --val-split test takes test as val"


def passed_over_notes(sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield one sentence for each split about the files that are not read, with their kinds."""
    for split, source in sources.items():
        if isinstance(source, FolderSource) and source.passed_over:
            count = sum(source.passed_over.values())
            hint = hint_for(source.passed_over)
            kinds = describe_kinds(source.passed_over)
            yield f"{split}: passed over {counted(count, 'file')} of kinds that are not read: {kinds}{hint}"


def describe_labels(source: Source) -> str:
    """Return "N images, L labelled, C classes", counting the classes that occur."""
    labelled = source.labels[source.labels >= 0]
    return f"{len(source.names):,} images, {len(labelled):,} labelled, {counted(len(np.unique(labelled)), 'class')}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 class", "2 classes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def listed(names: Sequence[str]) -> str:
    """Return the first names as text."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _folder_notes(split: str, source: FolderSource) -> Iterator[str]:
    if source.folder not in (".", split):
        yield f"{source.folder}/ is taken as the split {split}"
    yield from passed_over_notes({split: source})
    if source.without_images:
        yield f"{split}: no class for {listed(source.without_images)}: no image there that pack reads"
    stray = [name for name, label in zip(source.names, source.labels, strict=True) if label < 0]
    if stray and len(stray) < len(source.names):
        yield (
            f"{split}: {counted(len(stray), 'image')} beside the class folders, {listed(stray)}: packed without a "
            "label; move what belongs to a class into its folder"
        )


def _column_notes(split: str, source: TableSource) -> Iterator[str]:
    if source.column != IMAGE:
        yield f"{split}: images are from column {source.column}"
    if source.label_column is not None:
        if source.label_column != LABEL:
            yield f"{split}: labels are from column {source.label_column}"
    elif source.label_columns:
        names = ", ".join(source.label_columns)
        yield f"{split}: packed without labels; choose one of the columns {names} with --label-column"
    else:
        yield f"{split}: packed without labels, as there is no column label; name one with --label-column"


def _folders_left_out(data: Path, sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield a note about folders of images beside the splits, and about classes that look like splits."""
    taken = [source.place["folder"] for source in sources.values()]
    if taken == ["."]:
        classes = sources["train"].classes
        splits = [name for name in classes if similar_split(name)]
        if splits:
            yield (
                f"{listed(splits)} is taken as a class; if it is a split, put the class folders into train/, and name "
                "the others val/ and test/"
            )
        elif len(classes) == 1:
            yield from _splits_below(data, sources["train"])
        return
    with os.scandir(data) as entries:
        visible = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    others = [name for name, is_dir in visible if is_dir]
    tables = [name for name, is_dir in visible if not is_dir and kind_of(name) == ".parquet"]
    if tables:
        yield f"passed over {listed(tables)} beside the folders of images; to pack it, move it to a folder of its own"
    others = [name for name in others if name not in taken and has_images(data / name)]
    if others:
        yield f"passed over the images in {listed([f'{name}/' for name in others])} beside the splits"


def _splits_below(data: Path, source: Source) -> Iterator[str]:
    """Yield a note if the only class holds folders named like splits: probably the folder above was given."""
    below = {tuple(name.split("/", 2)[:2]) for name in source.names if name.count("/") > 1}
    splits = sorted(folder for _, folder in below if similar_split(folder))
    if splits:
        only = next(iter(below))[0]
        yield (
            f"all images are of one class, {only}, with folders {listed(splits)} in it: to pack its splits, give "
            f"{data / only}"
        )


def _label_notes(sources: Mapping[str, Source]) -> Iterator[str]:
    found = {split: _classes_of(source) for split, source in sources.items()}
    labelled = [split for split in found if found[split]]
    for split in found:
        if labelled and not found[split] and split != "test":
            yield f"{split} has no labels, but {labelled[0]} has: `eval` needs class folders in train and in val"
    if {"train", "val"} <= set(labelled):
        for split, other in (("train", "val"), ("val", "train")):
            alone = sorted(found[split] - found[other])
            if alone:
                yield f"{counted(len(alone), 'class')} of {split} not in {other}: {listed(alone)}"
    classes = next(iter(sources.values())).classes
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(map(ascii, names))
            yield f"the classes {shown} differ in letter case or Unicode form alone; rename one if they are the same"


def _classes_of(source: Source) -> set[str]:
    return {source.classes[label] for label in np.unique(source.labels) if label >= 0}
