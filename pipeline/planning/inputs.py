"""What a plan is of: a packed dataset, or numbers in its place."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.footprint import Footprint
from cache.layout import SplitShape
from pipeline.errors import WrongUse
from pipeline.images.beton_format import beton_bytes
from pipeline.images.beton_writer import SMALLEST_PAGE
from pipeline.images.dataset import DESCRIPTION, Dataset, open_dataset
from pipeline.settings.commands import PackConfig, PlanConfig

TABLE_BYTES = 56  # a row of SPLIT.parquet, measured on the demo's and CIFAR-10's


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is planned for: rows and identity of each split, the dataset's files, and a picture's bytes.

    pixels: bytes of the largest picture when a JPEG is decoded; 0 where pictures are stored raw.
    """

    rows: dict[str, int]
    identities: dict[str, dict[str, Any]]
    footprint: Footprint
    picture: float
    pixels: int
    dataset: Dataset | None = None

    @property
    def train(self) -> int:
        """Images that a student is trained on."""
        return self.rows["train"]

    @property
    def all(self) -> int:
        """Images that the teacher sees."""
        return sum(self.rows.values())


def planned_images(config: PlanConfig) -> Images:
    """What a plan is of: a packed dataset, or numbers. WrongUse for both, or neither."""
    if (config.dataset is None) == (config.images == 0):
        raise WrongUse(
            "give either a DATASET that was packed, or --images N (and --picture-bytes) in its place"
        )
    if config.dataset is not None:
        return packed_images(config.dataset)
    if not config.picture_bytes:
        raise WrongUse(
            "--images needs --picture-bytes: what a picture takes in the .beton, 100000 for ImageNet's"
        )
    rows = {"train": config.images, **({"val": config.val_images} if config.val_images else {})}
    files = [beton_bytes(count, config.picture_bytes, SMALLEST_PAGE) for count in rows.values()]
    return Images(
        rows=rows,
        identities={
            name: {"split": name, "rows": count, "classes": [], "images": "0" * 64}
            for name, count in rows.items()
        },
        footprint=Footprint(files=2 * len(rows) + 1, bytes=sum(files) + sum(rows.values()) * TABLE_BYTES),
        picture=config.picture_bytes,
        pixels=3 * PackConfig.max_resolution**2,
    )


def packed_images(path: Path) -> Images:
    """What is there of a dataset, to the byte. WrongUse when it has no training images."""
    dataset = open_dataset(path)
    train = dataset.split("train")
    files = [path / DESCRIPTION]
    for name in dataset.splits:
        files += [path / f"{name}.beton", path / f"{name}.parquet"]
    picture = train.beton.stat().st_size / train.rows
    sides = train.sizes.astype(np.int64)
    # a raw picture has three bytes a pixel
    is_raw = picture >= 3 * sides.prod(axis=1).mean()
    return Images(
        rows={name: split.rows for name, split in dataset.splits.items()},
        identities={name: split.identity for name, split in dataset.splits.items()},
        footprint=Footprint(files=len(files), bytes=sum(file.stat().st_size for file in files)),
        picture=picture,
        pixels=0 if is_raw else 3 * int(sides.prod(axis=1).max()),
        dataset=dataset,
    )


def shapes(images: Images, dim: int) -> list[SplitShape]:
    """The splits of a store of these images."""
    return [SplitShape(rows=rows, views=1, dim=dim) for rows in images.rows.values()]


def chunk_count(images: Images, dim: int) -> int:
    """Chunks of a store of these images, all splits together."""
    return sum(shape.chunks for shape in shapes(images, dim))


def busiest(chunks: Sequence[int], workers: int) -> int:
    """Rows that the busiest of so many workers computes, when each takes the next chunk as soon as it is free."""
    done = [0] * workers
    for rows in chunks:
        heapq.heapreplace(done, done[0] + rows)
    return max(done)
