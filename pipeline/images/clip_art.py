"""The demo's pictures: Debian's package openclipart-png, clip art in the public domain, one drawing a file."""

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from pipeline.images.debian_package import DebianPackage, package_files
from pipeline.images.decode import UnreadableImage, decode, perceptual_hash
from pipeline.images.sources import Source

PACKAGE = DebianPackage(
    name="openclipart-png",
    url="https://deb.debian.org/debian/pool/main/o/openclipart/openclipart-png_0.18+dfsg-19_all.deb",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    root="usr/share/openclipart/png",
)
SIDE = 256  # px of the longest side that is kept
LARGEST = 50_000_000  # pixels; fifteen drawings have up to 623 million, and would take most of the time


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A reduced picture: its bytes as PNG, and the perceptual hash that it shares with copies in other colours."""

    png: bytes
    thumb: int


def clip_art_folder() -> Path:
    """The folder of the drawings, downloaded to the user's cache where the package is not installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anchorage"
    return package_files(PACKAGE, cache)


def drawings_below(folder: Path) -> list[str]:
    """Relative POSIX paths of the PNG files, sorted; links, which show a drawing under a second name, are left out."""
    found = (path for path in folder.rglob("*.png") if path.is_file() and not path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def read_drawing(source: Source, row: int) -> Drawing | None:
    """One picture, reduced; None for one that is blank on white, is larger than LARGEST or cannot be decoded."""
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
    """How many pixels a PNG file says that it has; 0 for what is no PNG."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return 0
    width, height = struct.unpack(">II", data[16:24])
    return int(width * height)


def on_a_white_square(image: Image.Image) -> Image.Image | None:
    """What is drawn, at most SIDE px long, in the middle of a white square as long; None where all is white.

    Most drawings lie somewhere on a white or transparent page, some in a corner of it.
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
