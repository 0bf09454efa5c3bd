"""The demo's drawings: Debian's package openclipart-png, clip art in the public domain."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from cache.user_folder import user_folder
from pipeline.images.debian_package import DebianPackage, package_files
from pipeline.images.decode import UnreadableImage, decode, perceptual_hash
from pipeline.images.sources import Source

PACKAGE = DebianPackage(
    name="openclipart-png",
    url="https://deb.debian.org/debian/pool/main/o/openclipart/openclipart-png_0.18+dfsg-19_all.deb",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    root="usr/share/openclipart/png",
)
SIDE = 256  # longest side in px after reduction
LARGEST = 50_000_000  # pixels; fifteen drawings have up to 623 million, and would take most of the time


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A reduced drawing as PNG bytes, and its perceptual hash, which copies in other colours share."""

    png: bytes
    thumb: int


def clip_art_folder() -> Path:
    """Return the folder of the drawings; it is downloaded to the user's cache if the package is not installed."""
    return package_files(PACKAGE, user_folder())


def drawings_below(folder: Path) -> list[str]:
    """Return the relative POSIX paths of the PNG files, sorted, without links, which are second names of a drawing."""
    found = (path for path in folder.rglob("*.png") if path.is_file() and not path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def read_drawing(source: Source, row: int) -> Drawing | None:
    """Return one drawing, reduced; None if it is blank on white, larger than LARGEST or unreadable."""
    data = source.read(row)
    if pixels_of(data) > LARGEST:
        return None
    try:
        image = on_a_white_square(decode(data))
    except UnreadableImage:
        return None
    if image is None:
        return None
    png = io.BytesIO()
    image.save(png, "PNG")
    return Drawing(png=png.getvalue(), thumb=perceptual_hash(image))


def pixels_of(data: bytes) -> int:
    """Return the number of pixels from the header of a PNG file; 0 if it is not a PNG."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return 0
    width, height = struct.unpack(">II", data[16:24])
    return int(width * height)


def on_a_white_square(image: Image.Image) -> Image.Image | None:
    """Crop to what is drawn, reduce to SIDE px at most and centre on a white square; return None if all is white.

    Many files are a page with a small drawing somewhere on it.
    """
    box = ImageOps.invert(image).getbbox()
    if box is None:
        return None
    drawn = image.crop(box)
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    side = max(drawn.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square
