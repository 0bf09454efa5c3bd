"""CIFAR-10 (Krizhevsky 2009), as torchvision downloads it, in the two parquet files that subset.py reads.

    python -m recipes.cifar10.images CIFAR10     # writes CIFAR10/train.parquet, 45,000 images, and CIFAR10/val.parquet

Both are of CIFAR-10's training set: val is the last 500 images of each class. Images are PNG.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

VAL_OF_EACH_CLASS = 500


def write_parquet(pixels: NDArray[np.uint8], labels: NDArray[np.int64], out: Path, held_out: int) -> None:
    """Write images (N, 32, 32, 3) with labels (N,): the last `held_out` of each class as val, the others as train."""
    val = np.sort(np.concatenate([np.flatnonzero(labels == kind)[-held_out:] for kind in np.unique(labels)]))
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", np.setdiff1d(np.arange(len(labels)), val)), ("val", val)):
        images = [{"bytes": as_png(pixels[row]), "path": f"{row:05}.png"} for row in rows]
        pq.write_table(pa.table({"image": images, "label": labels[rows]}), out / f"{split}.parquet")


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main(out: Path) -> None:
    from torchvision.datasets import CIFAR10

    found = CIFAR10(str(out), train=True, download=True)
    write_parquet(found.data, np.array(found.targets), out, VAL_OF_EACH_CLASS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
