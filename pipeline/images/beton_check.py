"""The join guard: that a dataset's .beton shows, row by row, the images that a store was made of.

Identities say what a dataset was when it was packed; they do not see a .beton that was damaged, or exchanged, since.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import IdentityMismatch
from cache.identity import identity_difference
from cache.reader import Split
from pipeline.errors import PipelineError
from pipeline.images.beton_format import Beton, open_beton
from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import UnreadableImage, brightness_steps

SAMPLE = 64
ROWS_SHOWN = 5
MARGIN = 2  # levels; a smaller step of brightness may be rounded, or encoded, either way
FEWEST = 8  # steps above the margin, below which a picture is too plain to be told by them
TOLERANCE = 0.25  # see `shows`
SMALLEST = 24  # px; a picture that was reduced below it shows too little of its 72 cells


def require_same_images(split: Split, dataset: DatasetSplit) -> None:
    """Compare a store's split with a dataset's: identities, labels, the .beton's tables, and a sample of its pictures.

    The sample is one readable row of each of 64 equal stretches, the same at every call: damage to a run of rows as
    long as two stretches is seen for certain. Raises IdentityMismatch with the fields that differ, PipelineError for a
    .beton that is out of order, cut short, or shows other images.
    """
    dataset = replace(dataset)  # what is read of each row here is not kept
    differences = identity_difference(dataset.identity, split.dataset)
    if differences:
        raise IdentityMismatch(f"{split.path} was made of another dataset: {'; '.join(differences)}")
    again = f"delete it and run `python cli.py pack {dataset.data} {dataset.folder}`, which makes it anew"
    if not np.array_equal(split.label, dataset.labels):
        raise PipelineError(
            f"the labels of {dataset.folder / dataset.name}.parquet are not those of {split.path}: {again}, "
            "or make the store again"
        )
    try:
        beton = open_beton(dataset.beton, dataset.labels)
    except PipelineError as error:
        raise PipelineError(f"{dataset.folder}: {error}; {again}") from error
    rows, thumbs = sample(np.flatnonzero(dataset.readable)), split.thumb
    others = [row for row in rows.tolist() if not shows(beton, row, int(thumbs[row]), dataset.sizes[row])]
    if others:
        named = ", ".join(map(str, others[:ROWS_SHOWN])) + (", ..." if len(others) > ROWS_SHOWN else "")
        raise PipelineError(
            f"{len(others)} of {len(rows)} sampled rows of {dataset.beton} are not the images that {split.path} was "
            f"made of (rows {named}): {again}"
        )


def sample(rows: NDArray[np.int64], count: int = SAMPLE) -> NDArray[np.int64]:
    """One row, drawn with a fixed seed, of each of `count` equal stretches of `rows`; of fewer rows, all."""
    if len(rows) <= count:
        return rows
    edges = np.arange(count + 1) * len(rows) // count
    return rows[np.random.default_rng(0).integers(edges[:-1], edges[1:])]


def shows(beton: Beton, row: int, thumb: int, size: NDArray[np.int32]) -> bool:
    """Whether a row's picture can be the image, of `size` (width, height) px, that a perceptual hash was taken of.

    It can if at most a quarter of its clear steps of brightness are the other way. Measured on 400 images of CIFAR-10
    (32 px), 400 of Fashion-MNIST (28 px) and 200 drawn shapes (120 to 400 px): the same image as JPEG of quality 50 to
    95 at its size differs in 0.175 at most; reduced as well, CIFAR-10 to 24 px and drawings to 0.75, 0.5 and 0.25, it
    is refused in 1 of 4,000 cases (quality 50). Another image is refused for 100 % of CIFAR-10, 86 % of Fashion-MNIST
    and 97 % of the drawings, black in its place for 99 %, 91 % and 16 %. What is reduced below 24 px is not judged:
    at 14 px and quality 50 the same image of Fashion-MNIST would be refused in 29 %.
    """
    try:
        picture = beton.picture(row)
    except UnreadableImage:
        return False
    if min(picture.size) < SMALLEST and picture.size != tuple(size):
        return True
    return not disagreement(picture, thumb) > TOLERANCE


def disagreement(picture: Image.Image, thumb: int) -> float:
    """The share of a picture's clear steps of brightness that a perceptual hash has the other way; NaN if too few are.

    A picture of one colour, as zeroed bytes give it, is compared in all 64 steps.
    """
    steps = brightness_steps(picture)
    bits = np.unpackbits(np.array([thumb], "<u8").view(np.uint8), bitorder="little").reshape(8, 8)
    clear = np.abs(steps) > MARGIN
    pixels = np.asarray(picture)
    if (pixels == pixels[0, 0]).all():
        clear[:] = True
    if clear.sum() < FEWEST:
        return math.nan
    return float(np.mean((steps > 0)[clear] != bits[clear]))
