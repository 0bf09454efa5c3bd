"""The join guard: the same images pass in any encoding and size, and different images do not."""

import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cache.reader import Split, open_store
from pipeline.errors import PipelineError
from pipeline.evaluate.embedded_runs import checked_store
from pipeline.images.beton_check import TOLERANCE, disagreement, may_show, require_same_images, sample
from pipeline.images.beton_format import FIELD, HEADER, SAMPLE, STORED, Beton, open_beton
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.images.decode import decode, perceptual_hash
from pipeline.training.distill import distill
from tests.support.training_runs import settings

Contents = np.ndarray


def test_the_images_that_a_store_was_made_of_pass(packed: Path, cached: Path) -> None:
    store, dataset = open_store(cached), open_dataset(packed)
    for name, split in dataset.splits.items():
        require_same_images(store.split(name), split)


def samples_of(contents: Contents, rows: int) -> Contents:
    start = HEADER.itemsize + 3 * FIELD.itemsize
    return contents[start : start + rows * SAMPLE.itemsize].view(SAMPLE)


def stored_of(contents: Contents, rows: int) -> Contents:
    return contents[-rows * STORED.itemsize :].view(STORED)


def pixels_of(contents: Contents, beton: Beton, row: int) -> Contents:
    start = int(beton.samples["image"]["data_ptr"][row])
    return contents[start : start + int(beton.sizes[row])]


def reverse_pixels(contents: Contents, beton: Beton) -> None:
    rows = len(beton.sizes)
    reversed_ones = [pixels_of(contents, beton, row).copy() for row in reversed(range(rows))]
    for row, pixels in enumerate(reversed_ones):
        pixels_of(contents, beton, row)[:] = pixels


def reverse_tables(contents: Contents, beton: Beton) -> None:
    """As if written in another order: a consistent .beton, but each row has the pixels of another."""
    rows = len(beton.sizes)
    images, stored = samples_of(contents, rows)["image"], stored_of(contents, rows)
    images[:] = images[::-1].copy()
    stored["sample_id"] = rows - 1 - stored["sample_id"]


def reverse_rows(contents: Contents, beton: Beton) -> None:
    samples = samples_of(contents, len(beton.sizes))
    samples[:] = samples[::-1].copy()


def shift_one_row(contents: Contents, beton: Beton) -> None:
    images = samples_of(contents, len(beton.sizes))["image"]
    images[7] = images[8]


def zero_pixels(contents: Contents, beton: Beton) -> None:
    for row in range(len(beton.sizes)):
        pixels_of(contents, beton, row)[:] = 0


def zero_a_stretch(contents: Contents, beton: Beton) -> None:
    """Zero two 64ths of the rows, which the sample cannot miss."""
    rows = len(beton.sizes)
    for row in range(101, 101 + 2 * math.ceil(rows / 64)):
        pixels_of(contents, beton, row)[:] = 0


def zero_all(contents: Contents, beton: Beton) -> None:
    contents[:] = 0


@pytest.fixture
def damaged(packed: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the dataset and damage its train.beton, keeping its size."""

    def damage(by: Callable[[Contents, Beton], None]) -> Path:
        copy = shutil.copytree(packed, tmp_path / "copy")
        train = open_dataset(copy).splits["train"]
        contents = np.fromfile(train.beton, np.uint8)
        by(contents, open_beton(train.beton, train.labels))
        contents.tofile(train.beton)
        return copy

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            reverse_pixels,
            r"^6\d of 64 sampled rows of .*train\.beton are not the images that .* \(rows \d+, .*\.\.\.\): ",
        ),
        (reverse_tables, r"^6\d of 64 sampled rows"),
        (
            reverse_rows,
            r"train\.beton does not hold row i at sample i; delete it and run `python cli.py pack ",
        ),
        (shift_one_row, r"train\.beton does not hold the pixels of every row"),
        (zero_pixels, r"^6\d of 64 sampled rows"),
        (zero_a_stretch, r"^[123] of 64 sampled rows .*\(rows 10\d"),
        (zero_all, r"train\.beton is not a \.beton with the fields image, row and label"),
    ],
)
def test_a_damaged_beton_is_refused(
    damage: Callable[[Contents, Beton], None], sentence: str, damaged: Callable[..., Path], cached: Path
) -> None:
    dataset = open_dataset(damaged(damage))
    with pytest.raises(PipelineError, match=sentence):
        require_same_images(open_store(cached).split("train"), dataset.splits["train"])


def test_distill_and_eval_begin_with_the_guard(
    damaged: Callable[..., Path], cached: Path, tmp_path: Path
) -> None:
    copy = damaged(reverse_tables)
    with pytest.raises(PipelineError, match="sampled rows"):
        distill(settings(copy, cached, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(PipelineError, match="sampled rows"):
        checked_store(open_store(cached), open_dataset(copy))


def test_other_labels_are_refused(packed: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split: Split = open_store(cached).split("train")
    dataset: DatasetSplit = open_dataset(packed).splits["train"]
    monkeypatch.setattr(Split, "label", np.roll(split.label, 1))
    with pytest.raises(PipelineError, match=r"the labels of .*train\.parquet are not those of"):
        require_same_images(split, dataset)


@given(rows=st.integers(1, 5000), count=st.integers(1, 70), start=st.floats(0, 1))
def test_a_run_as_long_as_two_stretches_is_sampled(rows: int, count: int, start: float) -> None:
    numbers = 3 * np.arange(rows)
    chosen = sample(numbers, count)
    assert len(chosen) == min(rows, count)
    assert (np.diff(chosen) > 0).all()
    assert np.isin(chosen, numbers).all()
    run = 2 * math.ceil(rows / count)
    first = int(start * max(rows - run, 0))
    assert np.isin(numbers[first : first + run], chosen).any()


def photograph(draws: np.random.Generator) -> Image.Image:
    """Coarse colors under fine noise."""
    coarse = Image.fromarray(draws.integers(0, 256, (7, 10, 3), np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    noise = draws.integers(-10, 11, (120, 160, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


def drawing(draws: np.random.Generator) -> Image.Image:
    """A few shapes on a largely white ground."""
    image = Image.new("RGB", (180, 140), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, width, height = (
            int(draws.integers(low, high)) for low, high in ((0, 150), (0, 110), (20, 90), (20, 70))
        )
        color = tuple(int(level) for level in draws.integers(0, 200, 3))
        pen.ellipse((x, y, x + width, y + height), fill=color)
    return image


def noise(draws: np.random.Generator) -> Image.Image:
    """Pure noise: its thumbnail has no clear step."""
    return Image.fromarray(draws.integers(0, 256, (128, 128, 3), np.uint8))


def encoded(image: Image.Image, scale: float, quality: int) -> Image.Image:
    smaller = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BOX)
    stream = io.BytesIO()
    smaller.save(stream, "JPEG", quality=quality)
    return decode(stream.getvalue())


@pytest.mark.parametrize("kind", [photograph, drawing, noise])
def test_the_same_image_in_another_encoding_and_size_passes(kind: Callable[..., Image.Image]) -> None:
    draws = np.random.default_rng(0)
    for image in (kind(draws) for _ in range(20)):
        thumb = perceptual_hash(image)
        for scale in (1, 0.75, 0.5, 0.25):
            for quality in (50, 75, 95):
                assert not disagreement(encoded(image, scale, quality), thumb) > TOLERANCE


@pytest.mark.parametrize("kind", [photograph, drawing])
def test_other_images_are_detected(kind: Callable[..., Image.Image]) -> None:
    draws = np.random.default_rng(0)
    images = [kind(draws) for _ in range(100)]
    thumbs = np.roll([perceptual_hash(image) for image in images], 1)
    refused = [
        disagreement(image, int(thumb)) > TOLERANCE for image, thumb in zip(images, thumbs, strict=True)
    ]
    # unrelated images differ in half of their steps, but drawings share their white ground
    assert np.mean(refused) > 0.8


def test_an_image_downscaled_to_a_few_pixels_is_accepted(packed: Path) -> None:
    train = open_dataset(packed).splits["train"]
    beton = open_beton(train.beton, train.labels)
    narrow = replace(beton, samples=beton.samples.copy())
    narrow.samples["image"]["width"], narrow.samples["image"]["height"] = 128, 8  # the same bytes
    assert train.sizes.tolist() == [[32, 32]] * train.rows
    for thumb in (0, 2**64 - 1):
        assert may_show(narrow, 0, thumb, np.array([512, 32], np.int32))
    assert not all(may_show(narrow, 0, thumb, np.array([128, 8], np.int32)) for thumb in (0, 2**64 - 1))


def test_clear_steps_by_hand() -> None:
    rising = Image.fromarray(np.tile(np.arange(9, dtype=np.uint8) * 3, (8, 1))).convert("RGB")
    assert disagreement(rising, 2**64 - 1) == 0
    assert disagreement(rising, 2**64 - 1 - 0b111) == 3 / 64
    faint = Image.fromarray(np.tile(np.arange(9, dtype=np.uint8) * 2, (8, 1))).convert("RGB")
    assert math.isnan(disagreement(faint, 0))
    one_row = np.zeros((8, 9), np.uint8)
    one_row[2] = 250 - np.arange(9) * 20
    assert disagreement(Image.fromarray(one_row).convert("RGB"), 0b11 << 16) == 2 / 8
    black = Image.new("RGB", (32, 32))
    assert disagreement(black, 0) == 0
    assert disagreement(black, 2**20 - 1) == 20 / 64
