"""A class-balanced part of parquet files of images: `python recipes/cifar10/subset.py CIFAR10 OUT 20000 [--tuning]`.

Takes the first images of each class from CIFAR10/train.parquet, and val.parquet whole. With --tuning, val.parquet holds
instead a quarter as many images, the next ones of each class in train.parquet: settings that are chosen on them are not
chosen on the images that results are reported on.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def main(source: Path, out: Path, images: int, *, tuning: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(source / "train.parquet")
    each = images // len(np.unique(table["label"].to_numpy()))
    write_images(of_each_class(table, 0, each), out / "train.parquet")
    if tuning:
        write_images(of_each_class(table, each, each + each // 4), out / "val.parquet")
    else:
        shutil.copyfile(source / "val.parquet", out / "val.parquet")


def of_each_class(table: pa.Table, start: int, stop: int) -> pa.Table:
    """Return the images number `start` to `stop` of each class, in their order."""
    label = table["label"].to_numpy()
    rows = np.concatenate([np.flatnonzero(label == kind)[start:stop] for kind in np.unique(label)])
    return table.take(np.sort(rows))


def write_images(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, store_schema=True)
    print(f"{file}: {len(table):,} images")


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--tuning"]
    main(Path(arguments[0]), Path(arguments[1]), int(arguments[2]), tuning="--tuning" in sys.argv)
