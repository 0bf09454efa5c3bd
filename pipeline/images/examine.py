"""What `pack` learns of an image: content hash, size, perceptual hash, or why it is unreadable."""

import hashlib
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.decode import UnreadableImage, decode, is_nearly_black, perceptual_hash
from pipeline.images.sources import NO_BYTES, Source

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
        return ExaminedImage(data=b"", sha256=NO_BYTES, reason=reason)
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


@dataclass(frozen=True, kw_only=True)
class ExaminedImages:
    """What was found of N images. table: (N,) RECORD. reasons: of the unreadable ones, by row."""

    table: NDArray[np.void]
    reasons: dict[int, str]


class Findings:
    """What processes find of N images: records of 51 bytes in a file that they share, which the caller deletes.

    Other processes get it pickled. Each record is written where its row belongs, so that a full disk is an error of
    the process that meets it; memory that processes share would kill them.
    """

    def __init__(self, file: Path, rows: int, context: BaseContext) -> None:
        self.file, self.rows = file, rows
        self._done: Any = context.Value("q", 0)
        self._reasons: Any = context.SimpleQueue()
        self.reasons: dict[int, str] = {}
        with file.open("wb") as empty:
            empty.truncate(rows * RECORD.itemsize)

    def add(self, row: int, found: ExaminedImage) -> None:
        """Record an image, in any process."""
        record = np.zeros(1, RECORD)
        width, height = found.image.size if found.image else (0, 0)
        digest, readable = np.frombuffer(found.sha256, np.uint8), found.image is not None
        record[0] = (digest, found.thumb, width, height, found.nearly_black, readable, True)
        if found.reason is not None:
            self._reasons.put((row, found.reason))
        # buffered, or a write that the disk takes in part would lose the rest
        with self.file.open("r+b") as file:
            file.seek(row * RECORD.itemsize)
            file.write(record.tobytes())
        with self._done.get_lock():
            self._done.value += 1

    def collect(self) -> int:
        """Take over the reasons that were recorded, and return the number of images that are done."""
        while not self._reasons.empty():
            row, reason = self._reasons.get()
            self.reasons[row] = reason
        return int(self._done.value)

    def table(self) -> NDArray[np.void]:
        """Return the records, (N,) RECORD, mapped from the file, after whose deletion they stay; changes stay here."""
        return np.memmap(self.file, RECORD, "c")
