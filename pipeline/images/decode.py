"""Bytes of an image file -> an upright RGB image, and its perceptual hash."""

import io
import logging
import re
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# EPS and the like are left out: PIL would hand a stranger's file to an external program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
WHITE = (255, 255, 255, 255)
_FROM_PIL = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

# Without a handler Python prints the library's complaints about a broken file, which we report ourselves.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UnreadableImage(ValueError):
    """These bytes are no image that can be used; the message is the reason."""


def decode(data: bytes) -> Image.Image:
    """The first picture in `data`, upright by its EXIF orientation, as 8-bit RGB of its full size.

    Palettes, CMYK (also Adobe's inverted one) and gray are converted, 16-bit gray is scaled to 8 bits,
    transparency is laid over white. Raises UnreadableImage for anything else: empty or truncated files,
    formats other than FORMATS, floating-point pixels, and pictures of more than 178,956,970 pixels (PIL's
    limit against decompression bombs).
    """
    if not data:
        raise UnreadableImage("the file is empty")
    # warnings.catch_warnings would not do: it is not safe in threads, and images are decoded in threads.
    if warnings.filters[:1] != [_FROM_PIL]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            if 0 in image.size:
                raise UnreadableImage(f"the picture is {image.width} x {image.height} pixels")
            return _upright(_to_rgb(image))
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image, or of an unknown format") from error
    except Exception as error:  # on broken files PIL's plugins raise anything, from struct.error to KeyError
        raise UnreadableImage(str(error) or type(error).__name__) from error


def perceptual_hash(image: Image.Image) -> int:
    """64-bit difference hash: bit 8 * i + j is set where cell (i, j) of a gray thumbnail, 8 rows of 9, is
    darker than its right neighbour. Survives re-encoding and resizing up to a few bits.

    http://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
    """
    return int.from_bytes(np.packbits(brightness_steps(image) > 0, bitorder="little").tobytes(), "little")


def brightness_steps(image: Image.Image) -> NDArray[np.int16]:
    """(8, 8) levels by which each cell of the gray thumbnail is darker than its right neighbour."""
    thumbnail = image.resize((9, 8), Image.Resampling.BOX).convert("L")
    cells: NDArray[np.int16] = np.asarray(thumbnail, np.int16)
    return cells[:, 1:] - cells[:, :-1]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage(
            "floating-point pixels have no any_rank range; convert the file to 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, which PIL would clip, scaled to 8."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise UnreadableImage("gray pixels of more than 16 bits; convert the file to 8 or 16 bits")
    gray = Image.fromarray(((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    gray.info = image.info
    return gray


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return image
    return image
