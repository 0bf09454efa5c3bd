"""Decoding an image file to an upright RGB image, and its perceptual hash."""

import io
import logging
import re
import warnings
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

# EPS is left out, because PIL would pass an untrusted file to an external program.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"]
LARGEST_TEXT = 64 * 2**20  # bytes of text or profile in a PNG; PIL refuses the image above 1 MiB
MOST_OF_12_BITS = 4095
WHITE = (255, 255, 255, 255)
_FROM_PIL = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

with suppress(ImportError):  # HEIC needs a package that is not installed by default
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS.append("HEIF")

PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_TEXT
PngImagePlugin.MAX_TEXT_MEMORY = 4 * LARGEST_TEXT

# Without a handler Python would print PIL's log about a broken file, which we report ourselves.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UnreadableImage(ValueError):
    """These bytes are not a usable image; the message is the reason."""


def decode(data: bytes) -> Image.Image:
    """Decode the first image in `data` as 8-bit RGB in full size, upright according to its EXIF orientation.

    Palettes, CMYK (including Adobe's inverted CMYK) and gray are converted, 16-bit gray is scaled to 8 bits, and
    transparent images are composited onto white. Raises UnreadableImage for anything else: empty or truncated files,
    formats other than FORMATS, floating-point pixels, and images of more than 178,956,970 pixels (PIL's limit against
    decompression bombs).
    """
    if not data:
        raise UnreadableImage("the file is empty")
    quiet_pil()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            has_16_bits = _has_16_bits(image)
            image.load()
            if 0 in image.size:
                raise UnreadableImage(f"the image is {image.width} x {image.height} pixels")
            return _upright(_to_rgb(image, has_16_bits))
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of an unknown format") from error
    except Exception as error:  # for broken files PIL's plugins raise anything, from struct.error to KeyError
        raise UnreadableImage(str(error) or type(error).__name__) from error


def quiet_pil() -> None:
    """Ignore PIL's warnings from now on."""
    # not warnings.catch_warnings, which is not thread-safe: images are decoded in threads
    if warnings.filters[:1] != [_FROM_PIL]:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def perceptual_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: bit 8 * i + j is set where cell (i, j) of a gray thumbnail of 8 rows of 9
    cells is darker than its right neighbour. Re-encoding and resizing change only a few bits.

    http://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
    """
    return int.from_bytes(np.packbits(brightness_steps(image) > 0, bitorder="little").tobytes(), "little")


def brightness_steps(image: Image.Image) -> NDArray[np.int16]:
    """Return by how many levels each cell of the gray thumbnail is darker than its right neighbour, (8, 8)."""
    thumbnail = image.resize((9, 8), Image.Resampling.BOX).convert("L")
    cells: NDArray[np.int16] = np.asarray(thumbnail, np.int16)
    return cells[:, 1:] - cells[:, :-1]


def is_nearly_black(data: bytes) -> bool:
    """Whether an image has 16 bits per channel but uses the lowest 12 at most, as many cameras and scanners write them.

    Raises UnreadableImage as `decode` does.
    """
    if not data:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not _has_16_bits(image):
                return False
            image.load()
            pixels = np.asarray(image)
            # PIL keeps the upper byte of each color, and all 16 bits of gray
            most = MOST_OF_12_BITS if image.mode.startswith("I") else MOST_OF_12_BITS >> 8
            return bool(0 < pixels.max() <= most)
    except Exception as error:
        raise UnreadableImage(str(error)) from error


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file of an image that is not loaded yet has 16 bits per channel."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _to_rgb(image: Image.Image, has_16_bits: bool) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage(
            "floating-point pixels have no standard value range; convert the file to 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    transparent = image.info.get("transparency")
    if has_16_bits and image.mode == "RGB" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)  # as PIL keeps of each color
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit gray, which PIL would clip, as RGB; pixels of the value that is transparent become white."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise UnreadableImage("gray pixels of more than 16 bits; convert the file to 8 or 16 bits")
    gray = Image.fromarray(((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    rgb = gray.convert("RGB")
    if isinstance(transparent := image.info.get("transparency"), int):
        rgb.paste(WHITE[:3], mask=Image.fromarray((pixels == transparent).astype(np.uint8) * 255))
    rgb.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return image
    return image
