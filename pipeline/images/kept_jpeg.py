"""JPEG files that a .beton holds as they are: encoding them again would lose quality, and time."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, JpegImagePlugin
from PIL.ExifTags import Base

COMMON_SAMPLINGS = (0, 1, 2)  # 4:4:4, 4:2:2 and 4:2:0; FFCV's decoder does not know all others
UPRIGHT = (None, 1)
SCAN, END, STUFFED = 0xDA, 0xD9, 0x00
RESTARTS, WITHOUT_LENGTH = range(0xD0, 0xD8), range(0xD0, 0xDA)
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, which every decoder knows
TABLES = (0xC4, 0xDB, 0xDD)  # of Huffman codes, of quantization, and the interval of restarts
PIXELS = (*FRAMES, *TABLES, SCAN)
JFIF, ADOBE = 0xE0, 0xEE  # they say what the three channels are
METADATA = (*range(0xE0, 0xF0), 0xFE)


@dataclass(frozen=True, kw_only=True)
class KeptJpeg:
    """The bytes of a JPEG file without its metadata, and its size in pixels; `ffcv_patches` writes it."""

    jpeg: bytes
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
    return KeptJpeg(jpeg=bare, width=image.width, height=image.height)


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG file without comments, EXIF (which may tell a place), profiles, thumbnails and what follows it.

    Raises ValueError or IndexError if its segments cannot be told apart or are of another kind of JPEG.
    """
    parts = [data[:2]]
    for marker, start, stop in segments(data):
        content = data[start + 4 : stop]
        if marker in PIXELS or (marker == ADOBE and content.startswith(b"Adobe")):
            parts.append(data[start:stop])
        elif marker == JFIF and content.startswith(b"JFIF\0"):
            # 14 bytes, of which the last two are the size of a thumbnail
            parts.append(b"\xff\xe0\x00\x10" + content[:12] + b"\0\0")
        elif marker not in METADATA:
            raise ValueError(f"marker {marker:#x} is of another kind of JPEG")
    return b"".join([*parts, b"\xff\xd9"])


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, and where it starts and stops; a scan's compressed pixels are part of it."""
    start = 2
    while data[start : start + 2] != bytes([0xFF, END]):
        if data[start] != 0xFF:
            raise ValueError(f"no marker at byte {start}")
        marker = data[start + 1]
        if marker in (STUFFED, 0xFF) or marker in WITHOUT_LENGTH:
            raise ValueError(f"marker {marker:#x} between segments")
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == SCAN:
            stop = data.index(b"\xff", stop)
            while data[stop + 1] == STUFFED or data[stop + 1] in RESTARTS:
                stop = data.index(b"\xff", stop + 2)
        yield marker, start, stop
        start = stop
