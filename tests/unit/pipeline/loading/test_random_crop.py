"""Crops: pure functions of (seed, epoch, row, view), with torchvision's distribution."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from pipeline.loading.random_crop import RandomCrop, center_crop, random_crop, stream, uniform

SCALE, RATIO = (np.array(values) for values in (RandomCrop().scale, RandomCrop().ratio))


def box(row: int, height: int, width: int, **key: int) -> tuple[int, int, int, int]:
    state = np.uint64(stream(key.get("seed", 0), key.get("epoch", 0), row, key.get("view", 0)))
    return random_crop(state, height, width, SCALE, RATIO)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**40 - 1), st.integers(1, 9000), st.integers(1, 9000))
def test_a_crop_lies_within_its_image(row: int, height: int, width: int) -> None:
    top, left, h, w = box(row, height, width)
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert h >= 1
    assert w >= 1


def test_every_part_of_the_key_changes_the_crop_and_nothing_else_does() -> None:
    first = [box(row, 500, 400) for row in range(100)]
    assert first == [box(row, 500, 400) for row in range(100)]
    for key in ("seed", "epoch", "view"):
        other = [box(row, 500, 400, **{key: 1}) for row in range(100)]
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 3


def test_crops_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    image = torch.empty(3, 300, 400)
    theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(4000)])
    ours = np.array([box(row, 300, 400) for row in range(4000)])
    # Means of 4000 draws with a std below 90 px have a standard error below 1.5 px each; 7 px is 3.4 standard
    # errors of the difference. Quartiles are slightly less certain.
    assert np.abs(theirs.mean(0) - ours.mean(0)).max() < 7
    quartiles = [np.quantile(boxes, [0.25, 0.5, 0.75], axis=0) for boxes in (theirs, ours)]
    assert np.abs(quartiles[0] - quartiles[1]).max() < 14


def test_draws_are_uniform() -> None:
    draws = np.array(
        [uniform(np.uint64(stream(0, 0, row, 0)), draw) for row in range(5000) for draw in range(2)]
    )
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    # chi-square with 19 degrees of freedom exceeds 43.8 once in a thousand; the seed is fixed
    assert ((counts - 500) ** 2 / 500).sum() < 43.8


def test_the_center_crop_is_the_middle_square() -> None:
    assert center_crop(10, 20, 1.0) == (0, 5, 10, 10)
    assert center_crop(11, 11, 0.5) == (2, 2, 6, 6)
