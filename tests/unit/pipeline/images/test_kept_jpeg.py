"""JPEG files stored as they are: the same pixels, without their metadata; and those that must not be."""

import io

import numpy as np
import pytest

import pipeline.ffcv_patches  # noqa: F401  before FFCV

# isort: split

from ffcv.libffcv import imdecode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import decode
from pipeline.images.kept_jpeg import KeptJpeg, kept_jpeg, without_metadata
from pipeline.images.pack import pack
from tests.support.flawed_images import JPEG, RAW, beton_of, pack_config, write

PLACE = b"a place on a map"


def photograph(width: int, height: int, *, seed: int = 0, mode: str = "RGB", **options: object) -> bytes:
    """Smooth colors as of a photograph, with comments."""
    draws = np.random.default_rng(seed)
    small = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", **({"quality": 95, "comment": PLACE} | options))
    return stream.getvalue()


def exif(**tags: object) -> Image.Exif:
    found = Image.Exif()
    for tag, value in tags.items():
        found[{"orientation": 0x0112, "description": 0x010E}[tag]] = value
    return found


def of_other_sampling(data: bytes) -> bytes:
    """The same file as if its brightness had 1 x 2 samples and not 2 x 1, which FFCV's decoder does not know."""
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x21
    return data[: frame + 11] + b"\x12" + data[frame + 12 :]


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 100, "optimize": True}],
    ids=str,
)
def test_the_pixels_are_those_of_the_file(options: dict[str, object]) -> None:
    data = photograph(90, 60, exif=exif(description=PLACE.decode()), icc_profile=b"p" * 70_000, **options)
    kept = kept_jpeg(data, 90)
    assert kept is not None
    assert (kept.width, kept.height) == (90, 60)
    assert PLACE in data
    assert PLACE not in kept.jpeg
    assert len(kept.jpeg) < len(data) - 70_000
    np.testing.assert_array_equal(np.asarray(decode(kept.jpeg)), np.asarray(decode(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        photograph(91, 60),
        photograph(60, 91),
        photograph(60, 60, mode="L"),
        photograph(60, 60, mode="CMYK"),
        photograph(60, 60, exif=exif(orientation=6)),
        photograph(60, 60)[:100],
        of_other_sampling(photograph(64, 64, subsampling=1)),
    ],
    ids=["empty", "wide", "high", "gray", "CMYK", "turned", "truncated", "sampling"],
)
def test_what_has_to_be_encoded(data: bytes) -> None:
    assert kept_jpeg(data, 90) is None


def test_an_image_that_is_no_jpeg_has_to_be_encoded() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "PNG")
    assert kept_jpeg(stream.getvalue(), 90) is None


def test_what_follows_the_end_or_lies_between_scans_is_left_out() -> None:
    comment = b"\xff\xfe" + (2 + len(PLACE)).to_bytes(2, "big") + PLACE
    thumbnail = b"\xff\xe0\x00\x13JFIF\0\1\2\0\0\1\0\1\1\1" + b"rgb"
    plain = photograph(48, 40, progressive=True, comment="", restart_marker_blocks=1)
    last_scan = plain.rindex(b"\xff\xda")
    within = plain[:2] + thumbnail + plain[2:last_scan] + comment + plain[last_scan:]
    kept = kept_jpeg(within + photograph(20, 20), 90)  # as a camera appends a preview
    assert kept is not None
    assert PLACE not in kept.jpeg
    assert b"rgb" not in kept.jpeg
    assert kept.jpeg.endswith(b"\xff\xd9")
    assert kept.jpeg.count(b"\xff\xd8") == 1
    np.testing.assert_array_equal(np.asarray(decode(kept.jpeg)), np.asarray(decode(plain)))
    np.testing.assert_array_equal(decoded_by_ffcv(kept.jpeg, 48, 40), decoded_by_ffcv(plain, 48, 40))


def test_another_kind_of_jpeg_has_to_be_encoded() -> None:
    """FFCV's decoder may leave the pixels of another image where those of a lossless JPEG should be."""
    data = photograph(48, 40)
    frame = data.index(b"\xff\xc0")
    for marker in (0xC3, 0xC9, 0xCA):
        with pytest.raises(ValueError, match="another kind of JPEG"):
            without_metadata(data[:frame] + bytes([0xFF, marker]) + data[frame + 2 :])


def test_segments_that_cannot_be_told_apart() -> None:
    data = photograph(20, 20)
    for damaged in (data[:2] + b"x" + data[3:], data[:2] + b"\xff\x00" + data[4:]):
        with pytest.raises(ValueError, match="marker"):
            without_metadata(damaged)


@given(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 4000))
@settings(max_examples=200, deadline=None)
def test_no_damage_makes_it_fail(at: int, value: int, length: int) -> None:
    data = bytearray(photograph(48, 40))
    data[at % len(data)] = value
    found = kept_jpeg(bytes(data[:length]), 90)
    assert found is None or isinstance(found, KeptJpeg)


def test_pack_stores_them_as_they_are(tmp_path) -> None:
    sides = {"a": (200, 150), "b": (60, 60), "c": (300, 150)}
    for seed, (name, (width, height)) in enumerate(sides.items()):
        write(tmp_path / "data" / f"{name}.jpg", photograph(width, height, seed=seed))
    files = [(tmp_path / "data" / f"{name}.jpg").read_bytes() for name in sides]
    dataset = pack(pack_config(tmp_path / "data", tmp_path / "out", max_resolution=200, write_mode="smart"))
    beton = dataset.splits["train"].beton
    stored, table = beton.read_bytes(), beton_of(beton).metadata["f0"]
    assert table["mode"].tolist() == [JPEG, RAW, JPEG]
    assert table["width"].tolist() == [200, 60, 200]
    assert [without_metadata(data) in stored for data in files] == [True, False, False]
    assert PLACE not in stored


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_student_sees_more_of_what_the_teacher_sees(subsampling: int) -> None:
    data = photograph(90, 60, subsampling=subsampling)
    kept, seen = kept_jpeg(data, 90), decode(data)
    assert kept is not None
    again = io.BytesIO()
    seen.save(again, "JPEG", quality=90)
    # FFCV decodes quickly rather than exactly
    error, error_if_encoded = (
        np.abs(decoded_by_ffcv(stored) - np.asarray(seen)).mean() for stored in (kept.jpeg, again.getvalue())
    )
    assert error < min(2, error_if_encoded)


def decoded_by_ffcv(data: bytes, width: int = 90, height: int = 60) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    imdecode(np.frombuffer(data, np.uint8), pixels, height, width, height, width)
    return pixels.astype(int)
