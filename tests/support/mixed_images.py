"""A small image folder with every kind of row that embedding must handle: noise, black, white and unreadable."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig

UNREADABLE, BLACK = 70, 3  # rows of train
WHITE_ONCE, WHITE_ALWAYS = 20, 150  # gray 254 and 255, on which tiny_teacher's Deadly kills its process


def draw_mixed_images(folder: Path) -> None:
    """Write 160 + 5 images of 20 x 18 px in two classes under train/ and val/."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 160), ("val", 5)):
        for row in range(count):
            path = folder / split / "ab"[row * 2 >= count] / f"{row:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)
            gray = {BLACK: 0, WHITE_ONCE: 254, WHITE_ALWAYS: 255}.get(row) if split == "train" else None
            Image.fromarray(pixels if gray is None else np.full_like(pixels, gray)).save(path)
    (folder / "train" / "a" / f"{UNREADABLE:03}.png").write_bytes(b"no image")


def packed_mixed_images(folder: Path) -> Dataset:
    """Write the images and the dataset packed from them into a folder."""
    draw_mixed_images(folder / "images")
    pack(PackConfig(data=folder / "images", out=folder / "dataset", workers=1))
    return open_dataset(folder / "dataset")
