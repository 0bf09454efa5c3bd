"""JPEG files that a .beton holds as they are: encoding them again would lose quality, and time."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin
from PIL.ExifTags import Base

COMMON_SAMPLINGS = (0, 1, 2)  # 4:4:4, 4:2:2 and 4:2:0; FFCV's decoder does not know all others
UPRIGHT = (None, 1)
SCAN, STUFFED, WITHOUT_LENGTH = 0xDA, 0x00, range(0xD0, 0xDA)
KEPT = (0xE0, 0xEE)  # JFIF's segment and Adobe's, which say what the three channels are
METADATA = (*range(0xE0, 0xF0), 0xFE)


@dataclass(frozen=True, kw_only=True)
class KeptJpeg:
    """The bytes of a JPEG file without its metadata, and its size in pixels."""

    data: bytes
    width: int
    height: int


def kept_jpeg(data: bytes, longest: int) -> KeptJpeg | None:
    """Return what a .beton can hold in place of the decoded pixels, or None if they have to be encoded.

    That is a readable JPEG file of three channels, upright, of a longer side of at most `longest` pixels.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            is_kept = (
                image.format == "JPEG"
                and image.mode == "RGB"
                and max(image.size) <= longest
                and image.getexif().get(Base.Orientation) in UPRIGHT
                and JpegImagePlugin.get_sampling(image) in COMMON_SAMPLINGS
            )
            bare = without_metadata(data) if is_kept else b""
    except Exception:  # what is odd is decoded and encoded, which says what is wrong with it
        return None
    # FFCV's pages hold twice the pixels of the largest image
    if not is_kept or len(bare) > 3 * image.width * image.height:
        return None
    return KeptJpeg(data=bare, width=image.width, height=image.height)


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG file without comments, EXIF (which may tell a place), profiles and thumbnails.

    Raises ValueError or IndexError if its segments cannot be told apart.
    """
    return b"".join(
        [data[:2], *(data[start:stop] for marker, start, stop in segments(data) if is_pixels(marker))]
    )


def is_pixels(marker: int) -> bool:
    return marker in KEPT or marker not in METADATA


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, and where it starts and stops; from the first scan on, all of the rest as one."""
    start = 2
    while True:
        if data[start] != 0xFF:
            raise ValueError(f"no marker at byte {start}")
        marker = data[start + 1]
        if marker == SCAN:
            yield marker, start, len(data)
            return
        if marker in (STUFFED, 0xFF) or marker in WITHOUT_LENGTH:
            raise ValueError(f"marker {marker:#x} before the first scan")
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start, stop
        start = stop


def encoder(encode: Callable[..., None], jpg: int) -> Callable[..., None]:
    """Return FFCV's `RGBImageField.encode` for pixels and for a KeptJpeg. jpg: FFCV's number of that mode."""

    def encode_or_keep(field: Any, destination: Any, image: Any, malloc: Any) -> None:
        if not isinstance(image, KeptJpeg):
            return encode(field, destination, image, malloc)
        destination["mode"], destination["height"], destination["width"] = jpg, image.height, image.width
        destination["data_ptr"], storage = malloc(len(image.data))
        storage[:] = np.frombuffer(image.data, np.uint8)

    return encode_or_keep
