"""Datasets of any size, laid out as `pack` does, with images of 8 px of random bytes.

Packing a million image files takes an hour. The header comes from a small dataset that `pack` wrote; tables and pixels
are written here in FFCV's layout, which every run checks before it starts.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.images.beton_format import FIELD, FIELDS, HEADER, IMAGE, RAW, SAMPLE, STORED
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig

SIDE = 8
PIXELS = np.dtype((np.uint8, (SIDE, SIDE, 3)))


def written_dataset(folder: Path, rows: int) -> DatasetSplit:
    """Write a dataset to `folder`/dataset and return its split 'train'."""
    template, out = packed_template(folder), folder / "dataset"
    out.mkdir()
    write_beton(out / "train.beton", template / "train.beton", rows)
    write_table(out / "train.parquet", rows)
    description = json.loads((template / "dataset.json").read_text())
    known = description["splits"]["train"]
    known["rows"] = known["identity"]["rows"] = rows
    known["bytes"] = {suffix: (out / f"train.{suffix}").stat().st_size for suffix in ("beton", "parquet")}
    (out / "dataset.json").write_text(json.dumps(description))
    return open_dataset(out).split("train")


def packed_template(folder: Path) -> Path:
    """Pack a dataset of two images."""
    images = folder / "images/train/class-0"
    images.mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (SIDE, SIDE)).save(images / f"{name}.png")
    pack(PackConfig(data=folder / "images", out=folder / "template", workers=1))
    return folder / "template"


def write_beton(path: Path, template: Path, rows: int) -> None:
    """Write the header and fields of `template`, then samples, pixels and allocations for `rows` rows."""
    with template.open("rb") as file:
        header = np.fromfile(file, HEADER, 1)
        fields = np.fromfile(file, FIELD, len(FIELDS))
    numbers = np.arange(rows, dtype=np.uint64)
    start = HEADER.itemsize + fields.nbytes + rows * SAMPLE.itemsize
    images = np.zeros(rows, IMAGE)
    images["mode"], images["width"], images["height"] = RAW, SIDE, SIDE
    images["data_ptr"] = start + numbers * PIXELS.itemsize
    samples = np.zeros(rows, SAMPLE)
    samples["image"], samples["row"] = images, numbers
    stored = np.zeros(rows, STORED)
    stored["sample_id"], stored["ptr"], stored["size"] = numbers, images["data_ptr"], PIXELS.itemsize
    header["num_samples"], header["alloc_table_ptr"] = rows, start + rows * PIXELS.itemsize
    with path.open("wb") as file:
        pixels = np.frombuffer(np.random.default_rng(0).bytes(rows * PIXELS.itemsize), np.uint8)
        for part in (header, fields, samples, pixels, stored):
            part.tofile(file)


def write_table(path: Path, rows: int) -> None:
    """Write the table of rows; original sizes are larger, so that the guard does not compare pixels."""
    numbers, side = np.arange(rows), np.full(rows, 2 * SIDE, np.int32)
    columns = {
        "row": numbers,
        "path": [f"class-0/{number:08}.png" for number in range(rows)],
        "label": np.zeros(rows, np.int64),
        "sha256": [f"{number:064x}" for number in range(rows)],
        "readable": np.ones(rows, bool),
        "reason": pa.nulls(rows, pa.string()),
        "thumb": np.zeros(rows, np.uint64),
        "width": side,
        "height": side,
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
