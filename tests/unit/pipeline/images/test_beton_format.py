"""A .beton is read as FFCV reads it, and an incomplete one is an error."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.beton_format import (
    FIELD,
    FIELDS,
    HEADER,
    IMAGE,
    RAW,
    SAMPLE,
    STORED,
    VERSION,
    open_beton,
)
from pipeline.images.decode import UnreadableImage

SIDES = ((9, 4), (30, 17), (80, 60))  # the last one is stored as JPEG
LABELS = np.array([2, 0, 1])


def images() -> list[Image.Image]:
    ramps = [np.add.outer(np.arange(height), np.arange(width)) for width, height in SIDES]
    return [
        Image.fromarray(np.stack([ramp, 255 - ramp, 70 + ramp // 2], -1).astype(np.uint8)) for ramp in ramps
    ]


def beton_bytes() -> bytes:
    """A .beton by hand: header, fields, samples, padding to a page, pixels, table of stored images."""
    first, last = [image.tobytes() for image in images()[:2]], io.BytesIO()
    images()[2].save(last, "JPEG", quality=95, subsampling=0)
    stored = [*first, last.getvalue()]
    start = 4096
    samples, table = np.zeros(3, SAMPLE), np.zeros(3, STORED)
    for row, data in enumerate(stored):
        place = start + sum(map(len, stored[:row]))
        samples[row] = ((int(row < 2), *SIDES[row], place), row, LABELS[row])
        table[2 - row] = (row, place, len(data))  # FFCV's workers write the table in any order
    fields = np.zeros(3, FIELD)
    fields["name"] = FIELDS
    header = np.array([(VERSION, 3, 8 << 20, 3, start + sum(map(len, stored)))], HEADER)
    head = header.tobytes() + fields.tobytes() + samples.tobytes()
    return head.ljust(start, b"\0") + b"".join(stored) + table.tobytes()


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    (tmp_path / "x.beton").write_bytes(beton_bytes())
    return tmp_path / "x.beton"


def test_the_records_are_ffcvs_own(packed: Path) -> None:
    from ffcv import types
    from ffcv.reader import Reader

    sample = Reader(str(packed / "train.beton")).metadata.dtype
    assert types.CURRENT_VERSION == VERSION
    pairs = (
        (HEADER, types.HeaderType),
        (STORED, types.ALLOC_TABLE_TYPE),
        (SAMPLE, sample),
        (IMAGE, sample["f0"]),
    )
    for ours, theirs in (*pairs, (FIELD, types.FieldDescType)):
        assert ours.itemsize == theirs.itemsize
        assert [of[1] for of in ours.fields.values()] == [of[1] for of in theirs.fields.values()]
    assert [of[0] for of in SAMPLE.fields.values()][1:] == [sample["f1"], sample["f2"]]


def test_images_are_read_back(beton: Path) -> None:
    found = open_beton(beton, LABELS)
    for row, image in enumerate(images()):
        difference = np.asarray(found.image(row)).astype(int) - np.asarray(image)
        assert np.abs(difference).max() <= (0 if row < 2 else 8)  # JPEG of quality 95 on a smooth ramp


def test_every_truncated_file_is_an_error(beton: Path) -> None:
    whole = beton.read_bytes()
    for end in [*range(0, len(whole), 97), len(whole) - 1]:
        beton.write_bytes(whole[:end])
        with pytest.raises(PipelineError, match=r"^x\.beton (is not a \.beton|holds|does not hold)"):
            open_beton(beton, LABELS)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_of_a_table_is_seen(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Except in an image's mode, a JPEG's size, FFCV's page size and field settings, and padding."""
    samples = HEADER.itemsize + 3 * FIELD.itemsize
    row = data.draw(st.integers(0, 2))
    sample, size = samples + row * SAMPLE.itemsize, len(beton_bytes())
    checked = [
        *range(sample + 5, sample + 13),  # where the pixels are
        *range(sample + 16, sample + 32),  # row and label
        *range(size - 3 * STORED.itemsize, size - 3 * STORED.itemsize + 16),  # of row 2
        *range(size - 2 * STORED.itemsize, size),
        *(0, 1, 2, 3, *range(8, 24)),  # version, fields, samples, place of the table
        *(range(sample + 1, sample + 5) if row < 2 else ()),  # width and height of raw pixels
    ]
    place, bit = data.draw(st.sampled_from(checked)), data.draw(st.integers(0, 7))
    damaged = bytearray(beton_bytes())
    damaged[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.beton"
    path.write_bytes(damaged)
    with pytest.raises(PipelineError):
        open_beton(path, LABELS)


def test_pixels_that_are_lost_later_are_unreadable(beton: Path) -> None:
    found = open_beton(beton, LABELS)
    assert found.samples["image"]["mode"].tolist() == [RAW, RAW, 0]
    beton.write_bytes(beton.read_bytes()[:4100])
    with pytest.raises(UnreadableImage, match="4 bytes are not 9 x 4 pixels"):
        found.image(0)
    with pytest.raises(UnreadableImage, match="empty"):
        found.image(2)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"x\.beton cannot be read: No such file"):
        open_beton(tmp_path / "x.beton", LABELS)
