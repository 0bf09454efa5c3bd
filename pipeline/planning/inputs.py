"""The images of a plan: a packed dataset, or numbers in its place."""

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
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.dataset_json import DESCRIPTION
from pipeline.settings.commands import PackConfig
from pipeline.settings.plan import PlanConfig

TABLE_BYTES = 56  # per row of SPLIT.parquet, measured on the demo's and CIFAR-10's


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that a plan is for.

    rows, identities: per split. footprint: of the dataset's files. stored_bytes: mean size of a stored image.
    decoded_bytes: size of the largest image after decoding; 0 if images are stored raw.
    """

    rows: dict[str, int]
    identities: dict[str, dict[str, Any]]
    footprint: Footprint
    stored_bytes: float
    decoded_bytes: int
    dataset: Dataset | None = None

    @property
    def train(self) -> int:
        """Number of training images."""
        return self.rows["train"]

    @property
    def total(self) -> int:
        """Number of images in all splits, which the teacher embeds."""
        return sum(self.rows.values())


def planned_images(config: PlanConfig) -> Images:
    """Return the images of a packed dataset, or of the given numbers. Raises WrongUse for both or neither."""
    if (config.dataset is None) == (config.images is None):
        raise WrongUse("give either a packed DATASET, or --images N and --picture-bytes N in its place")
    if config.dataset is not None:
        return packed_images(config.dataset)
    if not (config.images and config.picture_bytes):
        raise WrongUse("--images needs --picture-bytes, the mean size of a stored image: 51000 for ImageNet")
    rows = {"train": config.images, **({"val": config.val_images} if config.val_images else {})}
    files = [beton_bytes(count, config.picture_bytes, SMALLEST_PAGE) for count in rows.values()]
    return Images(
        rows=rows,
        identities={
            name: {"split": name, "rows": count, "classes": [], "images": "0" * 64}
            for name, count in rows.items()
        },
        footprint=Footprint(files=2 * len(rows) + 1, bytes=sum(files) + sum(rows.values()) * TABLE_BYTES),
        stored_bytes=config.picture_bytes,
        decoded_bytes=3 * PackConfig.max_resolution**2,
    )


def packed_images(path: Path) -> Images:
    """Return the images of a packed dataset. Raises WrongUse when it has no train split."""
    dataset = open_dataset(path)
    train = dataset.split("train")
    files = [path / DESCRIPTION]
    for name in dataset.splits:
        files += [path / f"{name}.beton", path / f"{name}.parquet"]
    stored_bytes = train.beton.stat().st_size / train.rows
    decoded_bytes = 3 * train.sizes.astype(np.int64).prod(axis=1)
    is_raw = stored_bytes >= decoded_bytes.mean()
    return Images(
        rows={name: split.rows for name, split in dataset.splits.items()},
        identities={name: split.identity for name, split in dataset.splits.items()},
        footprint=Footprint(files=len(files), bytes=sum(file.stat().st_size for file in files)),
        stored_bytes=stored_bytes,
        decoded_bytes=0 if is_raw else int(decoded_bytes.max()),
        dataset=dataset,
    )


def store_shapes(images: Images, dim: int) -> list[SplitShape]:
    """Return the shapes of the splits of a store of these images."""
    return [SplitShape(rows=rows, views=1, dim=dim) for rows in images.rows.values()]


def rows_of_busiest_worker(chunks: Sequence[int], workers: int) -> int:
    """Return the rows that the busiest worker computes if each takes the next chunk when it is free.

    chunks: the rows of each chunk.
    """
    done = [0] * workers
    for rows in chunks:
        heapq.heapreplace(done, done[0] + rows)
    return max(done)
