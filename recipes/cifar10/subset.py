"""A class-balanced part of parquet files of images: `python recipes/cifar10/subset.py CIFAR10 OUT 20000`.

Takes the first images of each class from CIFAR10/train.parquet, and val.parquet whole.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main(source: Path, out: Path, images: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(source / "train.parquet")
    label = table["label"].to_numpy()
    classes = np.unique(label)
    each = images // len(classes)
    rows = np.sort(np.concatenate([np.flatnonzero(label == kind)[:each] for kind in classes]))
    pq.write_table(table.take(rows), out / "train.parquet", store_schema=True)
    shutil.copyfile(source / "val.parquet", out / "val.parquet")
    print(f"{out}: {len(rows):,} training images of {len(classes)} classes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
