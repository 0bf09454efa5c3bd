"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747) as an image folder.

python -m recipes.fashion_mnist.images OUT 20000     # that many training images, and all 10,000 of val
"""

import gzip
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cache.user_folder import user_folder
from pipeline.errors import PipelineError, WrongUse

# Where Debian's package dataset-fashion-mnist puts its four files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt-top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot",
)  # fmt: skip
FILES = {"train": "train", "val": "t10k"}
IMAGES = {"train": 60_000, "val": 10_000}


def fashion_mnist(out: Path, *, train: int | None = None, val: int | None = None) -> Path:
    """Write OUT/train/CLASS/NUMBER.png and OUT/val/CLASS/NUMBER.png, 28 x 28 gray pixels each; returns OUT.

    NUMBER is the image's place in the original file. `train` and `val` ask for fewer images than the 60,000
    and 10,000 there are: the first of each class, as many of each as of any other (or one more). A folder
    that holds these images already is left as it is.

    Raises WrongUse when OUT holds something else, PipelineError when the images can be had nowhere.
    """
    wanted = {"train": train, "val": val}
    counts = {split: IMAGES[split] if limit is None else limit for split, limit in wanted.items()}
    for split, count in counts.items():
        if not 1 <= count <= IMAGES[split]:
            raise WrongUse(f"{split}: expected 1 to {IMAGES[split]} images, found {count}")
    if out.exists():
        _require_same(out, counts)
        return out
    source = _raw_files()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for split, count in counts.items():
            _write_split(source, partial / split, split, count)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _require_same(out: Path, counts: dict[str, int]) -> None:
    found = {split: sum(1 for _ in out.glob(f"{split}/*/*.png")) for split in counts}
    if found != counts:
        raise WrongUse(
            f"{out} exists and does not hold these images: expected {counts['train']} images in train/ and "
            f"{counts['val']} in val/, found {found['train']} and {found['val']}; choose another folder"
        )


def _write_split(source: Path, folder: Path, split: str, count: int) -> None:
    pixels, labels = _read(source, split)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number in tqdm(_balanced(labels, count), desc=f"fashion-mnist {split}", unit=" images"):
        Image.fromarray(pixels[number]).save(folder / CLASSES[labels[number]] / f"{number:05}.png")


def _balanced(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """The first `count` rows when classes take turns, ascending."""
    turn = np.empty(len(labels), np.int64)
    for label in range(len(CLASSES)):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    return np.sort(np.lexsort((labels, turn))[:count])


def _read(source: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (N, 28, 28) and labels (N,) from the original files: 16 and 8 bytes of header, then bytes."""
    stem = FILES[split]
    with gzip.open(source / f"{stem}-images-idx3-ubyte.gz") as images:
        pixels = np.frombuffer(images.read(), np.uint8, offset=16).reshape(IMAGES[split], 28, 28)
    with gzip.open(source / f"{stem}-labels-idx1-ubyte.gz") as labels:
        return pixels, np.frombuffer(labels.read(), np.uint8, offset=8)


def _raw_files() -> Path:
    """The folder of the four original files: Debian's, else torchvision's download in the user's cache."""
    if DEBIAN.is_dir():
        return DEBIAN
    from torchvision.datasets import FashionMNIST

    cache = user_folder()
    try:
        raw = Path(FashionMNIST(cache, download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        raise PipelineError(
            f"cannot download Fashion-MNIST to {cache} ({error}); install Debian's package "
            "dataset-fashion-mnist, or run this again where there is a network"
        ) from error
    return raw


if __name__ == "__main__":
    fashion_mnist(Path(sys.argv[1]), train=int(sys.argv[2]))
