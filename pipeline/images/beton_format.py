"""Reading a .beton's tables and single images without FFCV, which takes seconds to import."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.decode import UnreadableImage, decode

# The records of a .beton as FFCV 1.0 writes them (its file version 2).
VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "V1024")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("row", "<i8"), ("label", "<i8")], align=True)
STORED = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
FIELDS = (b"image", b"row", b"label")
RAW = 1  # the mode of an image stored as pixels; 0 is JPEG


@dataclass(frozen=True, kw_only=True)
class Beton:
    """An open .beton with fields image, row and label.

    samples: (N,) SAMPLE, one record per row. sizes: (N,) uint64, bytes of each stored image.
    """

    path: Path
    samples: NDArray[np.void]
    sizes: NDArray[np.uint64]

    def image(self, row: int) -> Image.Image:
        """Return the RGB image of a row. Raises UnreadableImage when its bytes are not an image."""
        where, size = self.samples["image"][row], int(self.sizes[row])
        with self.path.open("rb") as file:
            file.seek(int(where["data_ptr"]))
            data = file.read(size)
        if where["mode"] != RAW:
            return decode(data)
        shape = (int(where["height"]), int(where["width"]), 3)
        if len(data) != np.prod(shape):
            raise UnreadableImage(f"{len(data)} bytes are not {shape[1]} x {shape[0]} pixels")
        return Image.fromarray(np.frombuffer(data, np.uint8).reshape(shape))


def beton_bytes(rows: int, image_bytes: float, page: int) -> int:
    """Return the size in bytes of a .beton, given the mean size of a stored image and FFCV's page size.

    Every writing process leaves its last page unfilled, so several processes write up to a page more each.
    """
    tables = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + rows * SAMPLE.itemsize
    pages = -(-tables // page) + math.ceil(rows * image_bytes / page)
    return pages * page + rows * STORED.itemsize


def open_beton(path: Path, labels: NDArray[np.int64]) -> Beton:
    """Read a .beton's tables and check them: sample i must be row i with its label, and its image within the file.

    labels: (N,). Raises PipelineError.
    """
    rows = np.arange(len(labels))
    try:
        with path.open("rb") as file:
            samples, stored, end = _read_tables(file, path.name, len(rows))
    except OSError as error:
        raise PipelineError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if not (np.array_equal(samples["row"], rows) and np.array_equal(samples["label"], labels)):
        raise PipelineError(f"{path.name} does not hold row i at sample i")
    stored = stored[np.argsort(stored["sample_id"])]
    if not (np.array_equal(stored["sample_id"], rows) and _fits(samples["image"], stored, end)):
        raise PipelineError(f"{path.name} does not hold the pixels of every row")
    return Beton(path=path, samples=samples, sizes=stored["size"])


def _fits(images: NDArray[np.void], stored: NDArray[np.void], end: np.uint64) -> bool:
    """Whether each image is stored at its row's address and before `end`, a raw one in three bytes per pixel."""
    within = (stored["ptr"] <= end) & (stored["size"] <= end - np.minimum(stored["ptr"], end))
    pixels = images["height"].astype(np.uint64) * images["width"] * 3
    whole = (images["mode"] != RAW) | (stored["size"] == pixels)
    return bool((stored["ptr"] == images["data_ptr"]).all() and within.all() and whole.all())


def _read_tables(
    file: BinaryIO, name: str, rows: int
) -> tuple[NDArray[np.void], NDArray[np.void], np.uint64]:
    """Return samples, table of stored images, and the end of the images. Raises PipelineError for a wrong header."""
    header = _read(file, HEADER, 1)
    fields = _read(file, FIELD, len(FIELDS))
    is_ours = len(header) and (header["version"][0], header["num_fields"][0]) == (VERSION, len(FIELDS))
    if not is_ours or tuple(fields["name"]) != FIELDS:
        raise PipelineError(f"{name} is not a .beton with the fields image, row and label")
    if header["num_samples"][0] != rows:
        raise PipelineError(f"{name} holds {header['num_samples'][0]} samples, expected {rows}")
    samples = _read(file, SAMPLE, rows)
    end = header["alloc_table_ptr"][0]
    file.seek(min(int(end), file.seek(0, 2)))
    return samples, _read(file, STORED, rows), end


def _read(file: BinaryIO, dtype: np.dtype[Any], count: int) -> NDArray[np.void]:
    """Read up to `count` records from the current position; fewer at the end of the file."""
    data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype, len(data) // dtype.itemsize)
