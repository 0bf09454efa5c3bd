"""The join guard: check that a dataset's .beton holds, row by row, the images that a store was made from.

Identities describe a dataset as it was packed; they do not detect a .beton that was damaged or exchanged later.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import IdentityMismatch
from cache.reader import Split
from pipeline.errors import PipelineError
from pipeline.images.beton_format import Beton, open_beton
from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import UnreadableImage, brightness_steps

SAMPLE = 64
ROWS_SHOWN = 5
MARGIN = 2  # levels; rounding or encoding may reverse a smaller brightness step
FEWEST = 8  # steps above the margin; an image with fewer is too uniform to be compared
TOLERANCE = 0.25  # see `may_show`
SMALLEST = 24  # px; an image that was downscaled below it shows too little of its 72 cells


def require_same_images(split: Split, dataset: DatasetSplit) -> None:
    """Compare a store's split with a dataset's: identities, labels, the .beton's tables, and a sample of its images.

    A split that was made before `pack --relabel` gets the dataset's labels.

    The sample is one readable row from each of 64 equal stretches of rows, the same on every call, so damage to a run
    of rows as long as two stretches is always detected. Raises IdentityMismatch with the fields that differ, and
    PipelineError for a .beton that is out of order, truncated, or holds other images.
    """
    dataset = replace(dataset)  # a copy, so that the columns that are read here are not kept
    require_same_identity(split, dataset)
    if split.dataset != dataset.identity:  # labels were mended since
        split.relabel(dataset.identity, dataset.labels)
    again = f"delete it and run `python cli.py pack {dataset.data} {dataset.folder}` to write it again"
    if not np.array_equal(split.label, dataset.labels):
        raise PipelineError(
            f"the labels of {dataset.folder / dataset.name}.parquet are not those of {split.path}: {again}, "
            "or write the store again"
        )
    try:
        beton = open_beton(dataset.beton, dataset.labels)
    except PipelineError as error:
        raise PipelineError(f"{dataset.folder}: {error}; {again}") from error
    rows, thumbs = sample(np.flatnonzero(dataset.readable)), split.thumb
    others = [row for row in rows.tolist() if not may_show(beton, row, int(thumbs[row]), dataset.sizes[row])]
    if others:
        named = ", ".join(map(str, others[:ROWS_SHOWN])) + (", ..." if len(others) > ROWS_SHOWN else "")
        raise PipelineError(
            f"{len(others)} of {len(rows)} sampled rows of {dataset.beton} are not the images that {split.path} was "
            f"made from (rows {named}): {again}"
        )


def require_same_identity(split: Split, dataset: DatasetSplit) -> None:
    """Raise IdentityMismatch, with the fields that differ, if a store's split was made from another dataset."""
    differences = dataset.difference_from(split.dataset)
    if differences:
        raise IdentityMismatch(f"{split.path} was made from another dataset: {'; '.join(differences)}")


def sample(rows: NDArray[np.int64], count: int = SAMPLE) -> NDArray[np.int64]:
    """Return one random row, with a fixed seed, from each of `count` equal stretches of rows; all if they are fewer."""
    if len(rows) <= count:
        return rows
    edges = np.arange(count + 1) * len(rows) // count
    return rows[np.random.default_rng(0).integers(edges[:-1], edges[1:])]


def may_show(beton: Beton, row: int, thumb: int, size: NDArray[np.int32]) -> bool:
    """Whether a row of the .beton may hold the image that a perceptual hash was computed from.

    thumb: the hash. size: width and height of the original image in px.

    It may if at most a quarter of its clear brightness steps are reversed. Measured on 400 images of CIFAR-10 (32 px),
    400 of Fashion-MNIST (28 px) and 200 drawn shapes (120 to 400 px): the same image as JPEG of quality 50 to 95 in
    its original size differs by at most 0.175. If it is downscaled as well, CIFAR-10 to 24 px and drawings to 0.75, 0.5
    and 0.25, it is refused in 1 of 4,000 cases (quality 50). A different image is refused for 100 % of CIFAR-10, 86 %
    of Fashion-MNIST and 97 % of the drawings; a black one for 99 %, 91 % and 16 %. Images downscaled below 24 px are
    always accepted: at 14 px and quality 50 the same image of Fashion-MNIST would be refused in 29 %.
    """
    try:
        image = beton.image(row)
    except UnreadableImage:
        return False
    if min(image.size) < SMALLEST and image.size != tuple(size):
        return True
    return not disagreement(image, thumb) > TOLERANCE


def disagreement(image: Image.Image, thumb: int) -> float:
    """Return the share of an image's clear brightness steps that are reversed in a hash; NaN if too few are clear.

    An image of a single color, which zeroed bytes result in, is compared in all 64 steps.
    """
    steps = brightness_steps(image)
    bits = np.unpackbits(np.array([thumb], "<u8").view(np.uint8), bitorder="little").reshape(8, 8)
    clear = np.abs(steps) > MARGIN
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        clear[:] = True
    if clear.sum() < FEWEST:
        return math.nan
    return float(np.mean((steps > 0)[clear] != bits[clear]))
