"""What `pack` learns of an image: content hash, size, perceptual hash, or why it is unreadable."""

import hashlib
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.decode import UnreadableImage, decode, is_nearly_black, perceptual_hash
from pipeline.images.sources import Source

RECORD = np.dtype(
    [
        ("sha256", "u1", 32),
        ("thumb", "<u8"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("nearly_black", "?"),
        ("readable", "?"),
        ("done", "?"),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExaminedImage:
    """An image: the file's bytes and their sha256, its upright pixels as RGB or why it is unreadable.

    thumb: its perceptual hash. nearly_black: of its 16 bits, only the lowest 12 are used.
    """

    data: bytes
    sha256: bytes
    image: Image.Image | None = None
    reason: str | None = None
    thumb: int = 0
    nearly_black: bool = False


def examine(source: Source, row: int) -> ExaminedImage:
    """Read and decode an image; an error becomes the reason. An image that cannot be read has the hash of no bytes."""
    try:
        data = source.read(row)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return ExaminedImage(data=b"", sha256=hashlib.sha256().digest(), reason=reason)
    digest = hashlib.sha256(data).digest()
    try:
        image = decode(data)
    except UnreadableImage as error:
        return ExaminedImage(data=data, sha256=digest, reason=str(error))
    return ExaminedImage(
        data=data,
        sha256=digest,
        image=image,
        thumb=perceptual_hash(image),
        nearly_black=is_nearly_black(data),
    )


class Findings:
    """What processes find of N images, in memory that they share: 51 bytes an image. Other processes get it pickled.

    table: (N,) RECORD, filled row by row. reasons: of unreadable images, by row, as far as `collect` was called.
    """

    def __init__(self, rows: int, context: BaseContext) -> None:
        self._memory: Any = context.RawArray("B", rows * RECORD.itemsize)
        self._reasons: Any = context.SimpleQueue()
        self.reasons: dict[int, str] = {}

    @property
    def table(self) -> NDArray[np.void]:
        return np.frombuffer(self._memory, RECORD)

    def add(self, row: int, found: ExaminedImage) -> None:
        """Record an image, in any process."""
        width, height = found.image.size if found.image else (0, 0)
        if found.reason is not None:
            self._reasons.put((row, found.reason))
        digest = np.frombuffer(found.sha256, np.uint8)
        readable = found.image is not None
        self.table[row] = (digest, found.thumb, width, height, found.nearly_black, readable, True)

    def collect(self) -> int:
        """Take over the reasons that were recorded, and return the number of images that are done."""
        done = int(np.count_nonzero(self.table["done"]))
        while not self._reasons.empty():
            row, reason = self._reasons.get()
            self.reasons[row] = reason
        return done
